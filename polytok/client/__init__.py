"""The client: the services' methods in Python, synchronous and asynchronous."""

from polytok.client.client import AsyncClient, Client
from polytok.client.tokenization_arguments import Packing, Parameters

__all__ = ["AsyncClient", "Client", "Packing", "Parameters"]
