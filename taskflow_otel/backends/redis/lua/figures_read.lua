-- ARGV: span, first slot, last slot, most slots, names (a JSON list; empty for all of them). Returns the next slot (empty after the last one), and for each figure
-- its slot, its field, tasks and microseconds.
local key = P .. 'figures:' .. ARGV[1]
local limit = tonumber(ARGV[4])
local slots = call('ZRANGEBYSCORE', key, ARGV[2], ARGV[3], 'LIMIT', 0, limit + 1)
local rows = {}
local wanted
if ARGV[5] ~= '' then
  wanted = {}
  for _, name in ipairs(cjson.decode(ARGV[5])) do wanted[name] = true end
end
for n = 1, math.min(#slots, limit) do
  local tasks = call('HGETALL', key .. ':tasks:' .. slots[n])
  local micros = {}
  local sums = call('HGETALL', key .. ':micros:' .. slots[n])
  for m = 1, #sums, 2 do micros[sums[m]] = sums[m + 1] end
  for m = 1, #tasks, 2 do
    -- A field is kind:bucket:name.
    if not wanted or wanted[string.match(tasks[m], '^[^:]*:[^:]*:(.*)$')] then
      rows[#rows + 1] = {slots[n], tasks[m], tasks[m + 1], micros[tasks[m]] or '0'}
    end
  end
end
return {slots[limit + 1] or '', rows}
