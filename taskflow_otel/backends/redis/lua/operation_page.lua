-- ARGV: set (operations, operations_open, …), 'newest' or 'oldest', cursor (or ''), number of candidates, kind and status
-- (or ''). Returns {whether the set is at its end, id of the last candidate, texts that match}.
local some
if ARGV[2] == 'newest' then
  some = call('ZREVRANGEBYLEX', P .. ARGV[1], ARGV[3] == '' and '+' or '(' .. ARGV[3], '-', 'LIMIT', 0, ARGV[4])
else
  some = call('ZRANGEBYLEX', P .. ARGV[1], '-', '+', 'LIMIT', 0, ARGV[4])
end
local out = {}
for _, id in ipairs(some) do
  local stored = call('HMGET', P .. 'operation:' .. id, 'kind', 'status', 'doc')
  local wanted = stored[3] and (ARGV[5] == '' or ARGV[5] == stored[1]) and (ARGV[6] == '' or ARGV[6] == stored[2])
  if wanted then out[#out + 1] = {id, stored[3]} end
end
return {#some < tonumber(ARGV[4]) and 1 or 0, some[#some] or '', out}
