"""The problems that the API answers with (RFC 9457): their names, their statuses, and what to do.

`docs/problems.md`, the page under the administration's own path, and the exceptions of the client follow this list.
"""

from __future__ import annotations

from dataclasses import dataclass

PROBLEM_TYPE = "application/problem+json"
"""The media type of a problem."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error. `name` is the fragment of its `type`; `meaning` and `advice` are sentences."""

    name: str
    status: int
    title: str
    meaning: str
    advice: str


UNREADABLE_BODY = Problem(
    "unreadable-body",
    400,
    "The request body cannot be read",
    "The body ended early, or is nested too deeply.",
    "Send the body again, as JSON of a few levels.",
)
LOGIN_REQUIRED = Problem(
    "login-required",
    401,
    "Log in first",
    "The request names no user, or its password, token or session is wrong or has expired.",
    "Send a user and a password with HTTP Basic, a bearer token, or the cookie of a session.",
)
NOT_ALLOWED = Problem(
    "not-allowed",
    403,
    "This user may not do that",
    "The user is known, but its role does not include this action.",
    "Use an account with the role that `detail` names.",
)
READ_ONLY = Problem(
    "read-only",
    403,
    "This administration is read-only",
    "The application mounted it with `TaskAdmin(read_only=True)`, so nobody can change anything through it.",
    "Use an administration that is not read-only.",
)
UNTRUSTED_REQUEST = Problem(
    "untrusted-request",
    403,
    "The request may come from another site",
    "A session needs the header `X-CSRF-Token`, and a browser's `Origin` must be the address of the administration.",
    "Send the `csrf_token` of `GET /session` in `X-CSRF-Token`. Behind a proxy, forward the original host.",
)
NOT_FOUND = Problem(
    "not-found",
    404,
    "There is nothing at this address",
    "The path is not one of the API, or contains a name that nothing can have.",
    "Compare the path with the OpenAPI document of the application.",
)
TASK_NOT_FOUND = Problem(
    "task-not-found",
    404,
    "There is no such task",
    "No task has this id. Its history may have been deleted.",
    "Look for it in the task list; `retention_days` says how long finished tasks are kept.",
)
QUEUE_NOT_FOUND = Problem(
    "queue-not-found",
    404,
    "There is no such queue",
    "The manager that answers has no queue of this name.",
    "`GET /queues` lists them; `TaskManager(queues=)` declares them.",
)
SCHEDULE_NOT_FOUND = Problem(
    "schedule-not-found",
    404,
    "There is no such schedule",
    "The manager that answers has no recurring schedule of this name.",
    "`GET /schedules` lists them. A planned run cannot be paused, only cancelled by the application.",
)
OPERATION_NOT_FOUND = Problem(
    "operation-not-found",
    404,
    "There is no such bulk operation",
    "No bulk operation has this id. It may have been deleted.",
    "`GET /operations` lists them; `audit_retention_days` says how long they are kept.",
)
METHOD_NOT_ALLOWED = Problem(
    "method-not-allowed",
    405,
    "The address does not take this method",
    "The path is one of the API, but not with this method.",
    "Use a method of the header `Allow`.",
)
TASK_STATE = Problem(
    "task-state",
    409,
    "The state of the task does not allow it",
    "Only live tasks can be cancelled, only finished ones retried, and each of them once.",
    "Read the task again: `detail` says what it is now, or which task has replaced it.",
)
TASK_NOT_REGISTERED = Problem(
    "task-not-registered",
    409,
    "The function of the task is not registered",
    "The process that answers does not know the function that the stored task names.",
    "Send the request to a process whose code declares the function, or deploy it again.",
)
ARGUMENTS_UNREADABLE = Problem(
    "arguments-unreadable",
    409,
    "The arguments of the task cannot be read",
    "They were not stored, are encrypted with a key that this process does not have, or are damaged.",
    "Add the key to `TaskManager(encrypt_args_key=)`, or enqueue the task again from code.",
)
BODY_TOO_LARGE = Problem(
    "body-too-large",
    413,
    "The request body is too large",
    "A body of the API has at most 256 KiB.",
    "Send fewer ids at a time, or select the tasks with a filter.",
)
WRONG_HOST = Problem(
    "wrong-host",
    421,
    "The administration does not answer under this name",
    "The header `Host` names a host that someone outside may own, or that `TaskAdmin(allowed_hosts=)` does not list.",
    "Use a name that is allowed, or add this one to `TaskAdmin(allowed_hosts=)`.",
)
INVALID_JSON = Problem(
    "invalid-json",
    422,
    "The request body is not JSON",
    "The body cannot be parsed; `detail` says at which line and column.",
    "Repair the body at that place.",
)
INVALID_INPUT = Problem(
    "invalid-input",
    422,
    "A parameter or the body is wrong",
    "A value cannot be understood, is empty or given twice, or the route does not know the parameter.",
    "`fields` names what is wrong, `detail` says what is expected.",
)
TOO_MANY_LOGINS = Problem(
    "too-many-logins",
    429,
    "Too many wrong passwords",
    "Logins of this account or from this network have failed too often.",
    "Wait for the seconds in `Retry-After`.",
)
SERVER_ERROR = Problem(
    "server-error",
    500,
    "The server failed",
    "An error that the library does not expect. The answer does not contain it.",
    "Look for its traceback in the log of the application, and report it.",
)
NOT_STARTED = Problem(
    "not-started",
    503,
    "The manager does not run",
    "The lifespan of the application has not run, or has ended.",
    "Try again later; if it persists, run the application with its lifespan.",
)
BACKEND_UNAVAILABLE = Problem(
    "backend-unavailable",
    503,
    "The backend is not available",
    "The database did not answer, or refused the request.",
    "Try again after the seconds in `Retry-After`; `GET /health` gives the reason.",
)
QUEUE_FULL = Problem(
    "queue-full",
    503,
    "The queue is full",
    "The queue holds as many waiting tasks as its `max_size` allows.",
    "Try again later, or raise its limits.",
)
TOO_MANY_STREAMS = Problem(
    "too-many-streams",
    503,
    "Too many live streams are open",
    "The process that answers has reached its limit of streams.",
    "Close some, read the task list instead, or try again after the seconds in `Retry-After`.",
)

PROBLEMS = {
    problem.name: problem
    for problem in (
        UNREADABLE_BODY,
        LOGIN_REQUIRED,
        NOT_ALLOWED,
        READ_ONLY,
        UNTRUSTED_REQUEST,
        NOT_FOUND,
        TASK_NOT_FOUND,
        QUEUE_NOT_FOUND,
        SCHEDULE_NOT_FOUND,
        OPERATION_NOT_FOUND,
        METHOD_NOT_ALLOWED,
        TASK_STATE,
        TASK_NOT_REGISTERED,
        ARGUMENTS_UNREADABLE,
        BODY_TOO_LARGE,
        WRONG_HOST,
        INVALID_JSON,
        INVALID_INPUT,
        TOO_MANY_LOGINS,
        SERVER_ERROR,
        NOT_STARTED,
        BACKEND_UNAVAILABLE,
        QUEUE_FULL,
        TOO_MANY_STREAMS,
    )
}
"""All problems by name, in the order of their statuses."""

USUAL = {
    400: UNREADABLE_BODY,
    401: LOGIN_REQUIRED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    405: METHOD_NOT_ALLOWED,
    409: TASK_STATE,
    413: BODY_TOO_LARGE,
    421: WRONG_HOST,
    422: INVALID_INPUT,
    429: TOO_MANY_LOGINS,
    500: SERVER_ERROR,
    503: BACKEND_UNAVAILABLE,
}
"""The problem of a status where nothing more exact is known."""
