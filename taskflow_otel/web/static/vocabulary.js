// Generated from taskflow_otel/model/vocabulary.py by `python -m taskflow_otel.web.vocabulary_script`.

/** The states of a task. */
export const STATUSES = ["pending", "running", "success", "failed", "cancelled", "interrupted", "rejected"];

/** The states in which a task has not ended. */
export const LIVE = new Set(["pending", "running"]);

/** What made a task. */
export const SOURCES = ["manual", "scheduled", "retry"];

/** The state of an instance. */
export const INSTANCE_STATES = ["alive", "dead", "stopped"];

/** How an attempt ended, by the transition that ended it. */
export const OUTCOMES = {
  succeeded: "success",
  failed: "failed",
  retry_scheduled: "failed",
  cancelled: "cancelled",
  interrupted: "interrupted",
  recovered: "interrupted",
};

/** Why a task is in its state. */
export const REASONS = {
  retry_wait: "waits to retry",
  delayed: "delayed",
  request_failed: "its request failed",
  earlier_failed: "an earlier function of its request failed",
  commit_failed: "could not be stored",
  rolled_back: "its transaction was rolled back",
  queue_full: "the queue was full",
  duplicate: "duplicate of another task",
  overlap: "an earlier run had not ended",
  shutdown: "ended by shutdown",
  process_died: "its process died",
  takeover: "taken over from an instance that has ended",
  cancelled: "cancelled",
  timeout: "took too long",
  poison: "crashed its process repeatedly",
};
