-- Returns {doc, heartbeat, state} of each instance.
local out = {}
for _, id in ipairs(call('SMEMBERS', P .. 'instances')) do
  out[#out + 1] = call('HMGET', P .. 'instance:' .. id, 'doc', 'heartbeat', 'state')
end
return out
