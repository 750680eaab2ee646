-- ARGV: writer, number, new owner, whether the answer to the previous claim was lost, and then either the id of the only
-- wanted task, or an empty text, queue, limit, and JSON list of groups without their first character. Returns {row, since}
-- pairs.
if superseded(ARGV[1], ARGV[2]) then return false end

local owner, only = ARGV[3], ARGV[5]
local handed = P .. 'claimed:' .. owner
-- How many tasks that this instance cannot run a claim looks past in one queue.
local PATIENCE = 2000
local taken = {}

if ARGV[4] == '1' then
  for _, id in ipairs(call('LRANGE', handed, 0, -1)) do
    local stored = call('HMGET', task_key(id), 'owner', 'status')
    if stored[1] == owner and LIVE[stored[2]] then taken[#taken + 1] = {id, '0'} end
  end
end
if only == '' then call('DEL', handed) end

local function take(id, queue, group, created, since)
  call('ZREM', P .. 'pool:' .. queue, id)
  call('HDEL', P .. 'pool_of', id)
  if call('HGET', task_key(id), 'owner') == 'pool' then
    pass_on(id, 'pool', owner, group, created)
    taken[#taken + 1] = {id, since}
  end
end

local about = only ~= '' and call('HGET', P .. 'pool_of', only)
if about then take(only, unpack(cjson.decode(about))) end
if only == '' then
  local queue, limit, known = ARGV[6], tonumber(ARGV[7]), {}
  for _, group in ipairs(cjson.decode(ARGV[8])) do known[group] = true end
  local chosen, first, step = {}, 0, math.max(limit, 100)
  while #chosen < limit and first < PATIENCE do
    local ids = call('ZRANGE', P .. 'pool:' .. queue, first, first + step - 1)
    for _, id in ipairs(ids) do
      local about = #chosen < limit and cjson.decode(call('HGET', P .. 'pool_of', id))
      if about and known[string.sub(about[2], 2)] then chosen[#chosen + 1] = {id, about} end
    end
    first = first + step
    if #ids < step then break end
  end
  for _, one in ipairs(chosen) do take(one[1], unpack(one[2])) end
end
flush()

local out = {}
for n, one in ipairs(taken) do
  if only == '' then call('RPUSH', handed, one[1]) end
  out[n] = {row(one[1]), one[2]}
end
return out
