-- ARGV: task id, id of the task that retries it.
local owner = call('HGET', task_key(ARGV[1]), 'owner')
if owner then
  call('HSET', task_key(ARGV[1]), 'retried_by', ARGV[2])
  changed(ARGV[1], now(), owner)
  flush()
end
return 1
