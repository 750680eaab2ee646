-- ARGV: first slot, last slot and length of a slot in seconds, then fingerprints. Returns {fingerprint, slot, ends} of each slot
-- that has some.
local out, length = {}, tonumber(ARGV[3])
local function score(seconds) return string.format('%.0f', seconds * 1000000) end
for n = 4, #ARGV do
  local failed = P .. 'failed:' .. ARGV[n]
  for slot = tonumber(ARGV[1]), tonumber(ARGV[2]), length do
    local number = call('ZCOUNT', failed, score(slot), '(' .. score(slot + length))
    if number > 0 then out[#out + 1] = {ARGV[n], slot, number} end
  end
end
return out
