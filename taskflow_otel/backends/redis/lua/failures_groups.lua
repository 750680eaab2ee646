-- ARGV: cursor of the scan (0 at first), moments `recent` and `before`. Returns {next cursor (0 at the end), groups}; a group is
-- {fingerprint, total, not retried, waiting, first end, last end, ends since `recent`, ends from `before` on until then, id of
-- the newest task}. A group may be returned twice.
local found = call('SSCAN', P .. 'fingerprints', ARGV[1], 'COUNT', 200)
local groups = {}
for _, fingerprint in ipairs(found[2]) do
  local failed = P .. 'failed:' .. fingerprint
  local first = call('ZRANGE', failed, 0, 0, 'WITHSCORES')
  local last = call('ZREVRANGE', failed, 0, 0, 'WITHSCORES')
  if first[1] then
    groups[#groups + 1] = {
      fingerprint,
      call('ZCARD', failed),
      call('ZCARD', P .. 'open:' .. fingerprint),
      call('ZCARD', index_key('p' .. fingerprint, 'pending')),
      first[2],
      last[2],
      call('ZCOUNT', failed, ARGV[2], '+inf'),
      call('ZCOUNT', failed, ARGV[3], '(' .. ARGV[2]),
      last[1],
    }
  end
end
return {found[1], groups}
