"""Training loops of other libraries as a task's own loop."""

from normwise.compare.adapters.huggingface import trainer_task
from normwise.compare.adapters.lightning import lightning_task

__all__ = ["lightning_task", "trainer_task"]
