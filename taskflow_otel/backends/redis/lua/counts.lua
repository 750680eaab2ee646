-- ARGV: dimension, first and last moment (bounds of a range by score), then statuses.
-- Returns {status, number, sum of all its durations in microseconds, how many of them} of each.
local out = {}
for n = 4, #ARGV do
  local status = ARGV[n]
  local field = status .. ':' .. ARGV[1]
  out[#out + 1] = {
    status,
    call('ZCOUNT', index_key(ARGV[1], status), ARGV[2], ARGV[3]),
    call('HGET', P .. 'duration_sum', field) or '0',
    call('HGET', P .. 'duration_count', field) or '0',
  }
end
return out
