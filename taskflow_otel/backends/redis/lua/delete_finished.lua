-- ARGV: moment, limit. Returns how many tasks were deleted.
local ids = call('ZRANGEBYSCORE', P .. 'finished', '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do delete(id) end
flush()
return #ids
