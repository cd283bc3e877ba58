"""`python -m benchmarks`: the platform benchmark."""

from benchmarks import platform

if __name__ == "__main__":
    platform.main()
