"""The whole system on one machine: PostgreSQL and NATS from their wheels, the service, the roles, a GPU worker.

with Stack(Path(".tachograph"), 8765) as stack:
    print(stack.url, stack.api_key)
"""

from stack.errors import ProcessFailed, StackError
from stack.nats import Nats
from stack.postgres import Postgres
from stack.process import Process
from stack.system import Stack

__all__ = ["Nats", "Postgres", "Process", "ProcessFailed", "Stack", "StackError"]
