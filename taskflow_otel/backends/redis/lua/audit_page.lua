-- ARGV: index (audit, or audit_of:<task or operation>), latest and earliest time (bounds of a range by score), offset,
-- number. Returns id, time and text of these entries, newest first.
local out = {}
local some = call('ZREVRANGEBYSCORE', P .. ARGV[1], ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', ARGV[4], ARGV[5])
for n = 1, #some, 2 do
  out[#out + 1] = {some[n], some[n + 1], call('HGET', P .. 'audit_entries', some[n])}
end
return out
