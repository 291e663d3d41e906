"""What can go wrong for a reason the user can mend, or that may pass.

The message of every `EggsError` says what was wrong and what to do next, and holds no secret. Any other exception
that leaves `eggs_core` is a defect of ours.
"""

from typing import ClassVar


class EggsError(Exception):
    """Base of all errors a user can mend. `code` is stable and names the kind; `title` says it in words.

    One that is `transient` may pass by itself: the same request may succeed later.
    """

    code: ClassVar[str] = "invalid-request"
    title: ClassVar[str] = "The request cannot be carried out"
    transient: ClassVar[bool] = False


class InvalidPattern(EggsError, ValueError):
    code = "invalid-pattern"
    title = "Not an N:M pattern"


class PatternDoesNotFit(EggsError):
    code = "pattern-does-not-fit"
    title = "The pattern does not fit a layer of this model"


class MinDegreeImpossible(EggsError):
    code = "min-degree-impossible"
    title = "min_degree cannot be met in a layer of this model"


class ModelNotFound(EggsError):
    code = "model-not-found"
    title = "No such model"


class ModelNotAllowed(EggsError):
    code = "model-not-allowed"
    title = "The model path is outside the allowed folders"


class UnsafeCheckpoint(EggsError):
    code = "unsafe-checkpoint"
    title = "The checkpoint is not in safetensors or GGUF form"


class BrokenCheckpoint(EggsError):
    code = "broken-checkpoint"
    title = "The checkpoint cannot be read"


class UnsupportedModel(EggsError):
    code = "unsupported-model"
    title = "This model cannot be pruned here"


class BrokenPack(EggsError):
    code = "broken-pack"
    title = "The packed weights cannot be used"


class TextNotFound(EggsError):
    code = "text-not-found"
    title = "No such text"


class NotEnoughText(EggsError):
    code = "not-enough-text"
    title = "Too little text for what was asked"


class SequenceTooLong(EggsError):
    code = "sequence-too-long"
    title = "The sequence is longer than the model allows"


class HubUnavailable(EggsError):
    code = "hub-unavailable"
    title = "The Hugging Face Hub cannot be reached"
    transient = True


class PushRefused(EggsError):
    code = "push-refused"
    title = "The Hugging Face Hub does not let this token push there"


class StoreUnavailable(EggsError):
    code = "store-unavailable"
    title = "The object store cannot be reached"
    transient = True


class OutputExists(EggsError):
    code = "output-exists"
    title = "The output folder is not empty"


class NotEnoughMemory(EggsError):
    code = "not-enough-memory"
    title = "Not enough memory"


class TaskNotFound(EggsError):
    code = "task-not-found"
    title = "No such task"


class TaskNotAllowed(EggsError):
    code = "task-not-allowed"
    title = "The task is not run here"


class TasksNotInstalled(EggsError):
    code = "tasks-not-installed"
    title = "Tasks cannot be run here"


class WorkerNotInstalled(EggsError):
    code = "worker-not-installed"
    title = "Models cannot be worked on here"

    def __init__(self) -> None:
        super().__init__(
            "That needs the extra `worker`: pip install 'eggs[worker]'. `eggs serve --no-worker` does without it, "
            "and so do the commands that ask a service."
        )


class ServingNotInstalled(EggsError):
    code = "serving-not-installed"
    title = "Models cannot be served here"

    def __init__(self) -> None:
        super().__init__("Serving needs the extra `serving`: pip install 'eggs[serving]'.")


class CannotListen(EggsError):
    code = "cannot-listen"
    title = "The address cannot be listened on"


class TooManyProcesses(EggsError):
    code = "too-many-processes"
    title = "More processes than there is work or GPUs for"


class NoSpace(EggsError):
    code = "no-space"
    title = "Not enough disk space"
    transient = True


class DiskUnavailable(EggsError):
    code = "disk-unavailable"
    title = "The disk cannot be used"
    transient = True


class Cancelled(Exception):
    """Raised by a progress callback to stop a run between two blocks."""
