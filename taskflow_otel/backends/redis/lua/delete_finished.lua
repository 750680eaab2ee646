-- ARGV: moment, limit. Returns how many tasks were deleted.
local ids = call('ZRANGEBYSCORE', P .. 'finished', '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local stored = call('HMGET', task_key(id), 'owner', 'status', 'dims', 'key', 'duration')
  index(id, false, stored[2], stored[3], stored[5] and tonumber(stored[5]))
  changed(id, false, stored[1])
  if stored[4] then call('HDEL', P .. 'keys', stored[4]) end
  place(P .. 'finished', id, false)
  call('UNLINK', task_key(id), P .. 'logs:' .. id)
end
flush()
return #ids
