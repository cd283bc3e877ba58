"""Who reads an extraction right now: holds."""

from alembic import op

revision = "0002"
down_revision = "0001"
phase = "pre"


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """
        CREATE TABLE extractor.extraction_holds (
            extraction_id UUID NOT NULL,
            holder TEXT NOT NULL,
            expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
            CONSTRAINT pk_extraction_holds PRIMARY KEY (extraction_id, holder),
            CONSTRAINT fk_extraction_holds_extraction_id_extractions FOREIGN KEY(extraction_id)
                REFERENCES extractor.extractions (id) ON DELETE CASCADE
        )
        """
    )


def downgrade() -> None:
    """Drop the table: holders renew their holds within a minute of the next upgrade."""
    op.execute("DROP TABLE extractor.extraction_holds")
