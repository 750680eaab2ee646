"""The attributes of spans and log records; their keys are those of the semantic conventions where these have one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a span or a log record."""

    name: str
    type: str
    meaning: str


MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_DESTINATION_NAME = "messaging.destination.name"
MESSAGING_MESSAGE_ID = "messaging.message.id"
QUEUE = "taskflow.queue"
ATTEMPT = "taskflow.attempt"
PRIORITY = "taskflow.priority"
EXECUTOR = "taskflow.executor"
SOURCE = "taskflow.source"
INSTANCE = "taskflow.instance"
RELEASE = "taskflow.release"
QUEUE_WAIT = "taskflow.queue_wait"
TAG_PREFIX = "taskflow.tag."
OUTCOME = "taskflow.outcome"
REASON = "taskflow.reason"
INTERRUPTED = "taskflow.interrupted"
DURATION = "taskflow.duration"
LOG_PREFIX = "taskflow.log."
LINK = "taskflow.link"
ERROR_TYPE = "error.type"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"
AUDIT_ACTION = "taskflow.audit.action"
AUDIT_OUTCOME = "taskflow.audit.outcome"
AUDIT_METHOD = "taskflow.audit.method"
AUDIT_TARGET = "taskflow.audit.target"
AUDIT_TASK = "taskflow.audit.task"
AUDIT_OPERATION = "taskflow.audit.operation"
AUDIT_REASON = "taskflow.audit.reason"
AUDIT_DETAIL = "taskflow.audit.detail"
AUDIT_TIMES = "taskflow.audit.times"
USER_NAME = "user.name"
CLIENT_ADDRESS = "client.address"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"

SYSTEM = "taskflow"

ATTRIBUTES = (
    Attribute(MESSAGING_SYSTEM, "string", "always `taskflow`"),
    Attribute(MESSAGING_OPERATION_NAME, "string", "`send` or `process`"),
    Attribute(MESSAGING_OPERATION_TYPE, "string", "`send` or `process`"),
    Attribute(MESSAGING_DESTINATION_NAME, "string", "the task name: a task type is the destination"),
    Attribute(MESSAGING_MESSAGE_ID, "string", "the task id"),
    Attribute(QUEUE, "string", "the queue"),
    Attribute(ATTEMPT, "int", "number of the attempt, from 0"),
    Attribute(PRIORITY, "int", "higher runs first"),
    Attribute(EXECUTOR, "string", "one of [the executors](#executors)"),
    Attribute(SOURCE, "string", "one of [the sources](#sources)"),
    Attribute(INSTANCE, "string", "the process that owns the task"),
    Attribute(RELEASE, "string", "the release of the application that made the span, if `TaskManager` knows it"),
    Attribute(QUEUE_WAIT, "double", "seconds from ready to started, without deliberate delays"),
    Attribute(TAG_PREFIX + "*", "string", "the tags given to `add_task`"),
    Attribute(
        OUTCOME,
        "string",
        "the transition that ended the attempt: `succeeded` where metrics have `success`",
    ),
    Attribute(REASON, "string", "why, if the transition alone does not say"),
    Attribute(INTERRUPTED, "boolean", "`true` if the attempt ended because its process died"),
    Attribute(DURATION, "double", "run time of the attempt in seconds"),
    Attribute(LOG_PREFIX + "*", "any", "the keyword values given to `task_log`"),
    Attribute(
        LINK,
        "string",
        "on a link: `previous_attempt`, `retry_of`, `scheduled_by`, `added_by` or `dead_attempt`; "
        "the link to the `send` span has none",
    ),
    Attribute(ERROR_TYPE, "string", "class of the exception, or the reason of the refusal"),
    Attribute(EXCEPTION_TYPE, "string", "class of the exception"),
    Attribute(EXCEPTION_MESSAGE, "string", "its message, capped"),
    Attribute(EXCEPTION_STACKTRACE, "string", "its traceback, capped"),
    Attribute(AUDIT_ACTION, "string", "the route that was asked for, such as `retry-task`, or `login`"),
    Attribute(AUDIT_OUTCOME, "string", "one of [the outcomes of actions](#outcomes-of-actions)"),
    Attribute(
        AUDIT_METHOD, "string", "how the user was known: `session`, `basic`, `token`; `open` without access control"
    ),
    Attribute(AUDIT_TARGET, "string", "the queue, schedule, user or filter that the action was about"),
    Attribute(AUDIT_TASK, "string", "the id of the task that the action was about"),
    Attribute(AUDIT_OPERATION, "string", "the id of the bulk operation, which has the ids of all its tasks"),
    Attribute(AUDIT_REASON, "string", "why, as the user gave it (`?reason=`)"),
    Attribute(AUDIT_DETAIL, "string", "what happened, or why it was refused"),
    Attribute(AUDIT_TIMES, "int", "how many refused attempts this record is about"),
    Attribute(USER_NAME, "string", "the user of the administration"),
    Attribute(CLIENT_ADDRESS, "string", "the address of the user's client, as the application knows it"),
    Attribute(HTTP_ROUTE, "string", "method and address of the route"),
    Attribute(HTTP_STATUS, "int", "the status of the answer"),
)
