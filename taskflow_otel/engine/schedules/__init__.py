"""When tasks are made by a rule or for a moment: recurring schedules, planned runs, their firings."""
