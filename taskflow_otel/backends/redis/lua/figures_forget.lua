-- ARGV: span, slot, limit. Deletes slots that are less than this one; returns about how many figures were deleted.
local key = P .. 'figures:' .. ARGV[1]
local deleted = 0
for _, slot in ipairs(call('ZRANGEBYSCORE', key, '-inf', '(' .. ARGV[2], 'LIMIT', 0, 100)) do
  if deleted >= tonumber(ARGV[3]) then break end
  deleted = deleted + math.max(1, call('HLEN', key .. ':tasks:' .. slot))
  call('UNLINK', key .. ':tasks:' .. slot, key .. ':micros:' .. slot)
  call('ZREM', key, slot)
end
return deleted
