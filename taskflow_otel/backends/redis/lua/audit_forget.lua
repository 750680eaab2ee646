-- ARGV: moment, limit. Deletes the oldest entries before the moment; returns how many.
local ids = call('ZRANGEBYSCORE', P .. 'audit', '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local text = call('HGET', P .. 'audit_entries', id)
  local task = text and cjson.decode(text).task_id
  if task and task ~= cjson.null then call('ZREM', P .. 'audit_of:' .. task, id) end
  call('HDEL', P .. 'audit_entries', id)
  call('ZREM', P .. 'audit', id)
end
return #ids
