-- ARGV: id, position of the first item, number. Returns the texts of the items.
local out = {}
for n = tonumber(ARGV[2]), tonumber(ARGV[2]) + tonumber(ARGV[3]) - 1 do
  local text = call('HGET', P .. 'operation_items:' .. ARGV[1], string.format('%d', n))
  if not text then break end
  out[#out + 1] = text
end
return out
