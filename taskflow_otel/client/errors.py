"""The exceptions of the client: one for each problem of the API, and some for requests without its answer."""

from __future__ import annotations

from typing import ClassVar

from taskflow_otel.errors import TaskflowError
from taskflow_otel.wire import problems
from taskflow_otel.wire.bodies import ErrorOut
from taskflow_otel.wire.problems import Problem


class ClientError(TaskflowError):
    """Base of every error that the client raises for a request."""


class InvalidArgumentError(ClientError, ValueError):
    """No request can carry an argument: it is no id, has a lone surrogate, or is too long."""


class UnreachableError(ClientError, ConnectionError):
    """The server cannot be reached, or does not answer in time; trying again can help."""


class UnexpectedAnswerError(ClientError):
    """The answer is not one of the API: another server, a proxy, or a version that the client does not know."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status
        """The status of the answer, if it could be read."""


class RedirectError(ClientError):
    """The server sends the request on to another address, to which the client gives neither password nor token."""

    def __init__(self, message: str, location: str) -> None:
        super().__init__(message)
        self.location = location


class ProblemError(ClientError):
    """The API refuses a request (RFC 9457); each problem has a subclass.

    `type`, `title`, `status`, `detail` and `fields` are those of the answer. `retry_after`: seconds to wait before
    another try, if the answer says so.
    """

    problem: ClassVar[Problem | None] = None

    def __init__(self, body: ErrorOut, retry_after: float | None = None) -> None:
        super().__init__(f"{body.detail} ({body.status})")
        self.type: str = body.type
        self.title: str = body.title
        self.status: int = body.status
        self.detail: str = body.detail
        self.fields: tuple[str, ...] = tuple(body.fields)
        self.retry_after = retry_after


class UnreadableBodyError(ProblemError):
    """The server cannot read the body of the request."""

    problem: ClassVar[Problem] = problems.UNREADABLE_BODY


class LoginRequiredError(ProblemError):
    """Password, token or session are missing, wrong or expired."""

    problem: ClassVar[Problem] = problems.LOGIN_REQUIRED


class NotAllowedError(ProblemError, PermissionError):
    """The role of the user does not include this action."""

    problem: ClassVar[Problem] = problems.NOT_ALLOWED


class ReadOnlyError(ProblemError, PermissionError):
    """Nobody can change anything through this administration."""

    problem: ClassVar[Problem] = problems.READ_ONLY


class UntrustedRequestError(ProblemError, PermissionError):
    """The request may come from another site."""

    problem: ClassVar[Problem] = problems.UNTRUSTED_REQUEST


class AddressNotFoundError(ProblemError, LookupError):
    """The API of this server has no such address."""

    problem: ClassVar[Problem] = problems.NOT_FOUND


class TaskNotFoundError(ProblemError, LookupError):
    """No task has this id."""

    problem: ClassVar[Problem] = problems.TASK_NOT_FOUND


class QueueNotFoundError(ProblemError, LookupError):
    """No queue has this name."""

    problem: ClassVar[Problem] = problems.QUEUE_NOT_FOUND


class ScheduleNotFoundError(ProblemError, LookupError):
    """No recurring schedule has this name."""

    problem: ClassVar[Problem] = problems.SCHEDULE_NOT_FOUND


class OperationNotFoundError(ProblemError, LookupError):
    """No bulk operation has this id."""

    problem: ClassVar[Problem] = problems.OPERATION_NOT_FOUND


class MethodNotAllowedError(ProblemError):
    """The API of this server has this address, but not for this method."""

    problem: ClassVar[Problem] = problems.METHOD_NOT_ALLOWED


class TaskStateError(ProblemError):
    """The state of the task does not allow it."""

    problem: ClassVar[Problem] = problems.TASK_STATE


class TaskNotRegisteredError(ProblemError, LookupError):
    """The process that answers does not know the function of the task."""

    problem: ClassVar[Problem] = problems.TASK_NOT_REGISTERED


class ArgumentsUnreadableError(ProblemError):
    """The arguments of the task cannot be read."""

    problem: ClassVar[Problem] = problems.ARGUMENTS_UNREADABLE


class BodyTooLargeError(ProblemError, ValueError):
    """The body of the request is too large."""

    problem: ClassVar[Problem] = problems.BODY_TOO_LARGE


class WrongHostError(ProblemError):
    """The administration does not answer under the name in `base_url`."""

    problem: ClassVar[Problem] = problems.WRONG_HOST


class InvalidJsonError(ProblemError, ValueError):
    """The body of the request is not JSON."""

    problem: ClassVar[Problem] = problems.INVALID_JSON


class InvalidInputError(ProblemError, ValueError):
    """A parameter or the body is wrong; `fields` names what."""

    problem: ClassVar[Problem] = problems.INVALID_INPUT


class TooManyLoginsError(ProblemError):
    """Logins have failed too often; wait `retry_after` seconds."""

    problem: ClassVar[Problem] = problems.TOO_MANY_LOGINS


class ServerError(ProblemError):
    """The server failed unexpectedly; its log has the traceback."""

    problem: ClassVar[Problem] = problems.SERVER_ERROR


class NotStartedError(ProblemError):
    """The manager does not run."""

    problem: ClassVar[Problem] = problems.NOT_STARTED


class BackendUnavailableError(ProblemError, ConnectionError):
    """The backend of the server is not available."""

    problem: ClassVar[Problem] = problems.BACKEND_UNAVAILABLE


class QueueFullError(ProblemError):
    """The queue holds as many waiting tasks as it may."""

    problem: ClassVar[Problem] = problems.QUEUE_FULL


class TooManyStreamsError(ProblemError):
    """The process that answers has reached its limit of live streams."""

    problem: ClassVar[Problem] = problems.TOO_MANY_STREAMS


_BY_NAME = {kind.problem.name: kind for kind in ProblemError.__subclasses__() if kind.problem is not None}


def problem_error(body: ErrorOut, retry_after: float | None = None) -> ProblemError:
    """The exception for a problem; one that this version does not know becomes a plain `ProblemError`."""
    kind = _BY_NAME.get(body.type.partition("#")[2], ProblemError)
    return kind(body, retry_after)
