-- ARGV: task id, id of the task that retries it, the retry that was seen ('' for none). Returns the retry after the call.
local stored = call('HMGET', task_key(ARGV[1]), 'owner', 'retried_by')
if not stored[1] then return '' end
local known = stored[2] or ''
if known ~= '' and known ~= ARGV[3] and known ~= ARGV[2] then return known end
call('HSET', task_key(ARGV[1]), 'retried_by', ARGV[2])
changed(ARGV[1], now(), stored[1])
flush()
return ARGV[2]
