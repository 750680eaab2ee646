-- ARGV: moment, limit. Deletes the oldest entries before the moment; returns how many.
local ids = call('ZRANGEBYSCORE', P .. 'audit', '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local text = call('HGET', P .. 'audit_entries', id)
  local entry = text and cjson.decode(text) or {}
  for _, about in ipairs({entry.task_id or cjson.null, entry.operation_id or cjson.null}) do
    if about ~= cjson.null then call('ZREM', P .. 'audit_of:' .. about, id) end
  end
  call('HDEL', P .. 'audit_entries', id)
  call('ZREM', P .. 'audit', id)
end
return #ids
