-- ARGV: writer, number, new owner, whether the answer to the previous such claim was lost, and then either the id of the
-- only wanted task, or an empty text, queue, limit, JSON list of groups without their first character, and the number of slots
-- on all instances or an empty text, and the id of the only wanted task or an empty text. Returns {row, since} pairs.
if superseded(ARGV[1], ARGV[2]) then return false end

local owner, only = ARGV[3], ARGV[5]
local handed = P .. 'claimed:' .. owner
-- How many tasks that this instance cannot run a claim looks past in one queue.
local PATIENCE = 2000
local taken = {}

if ARGV[4] == '1' then
  for _, id in ipairs(only ~= '' and {only} or call('LRANGE', handed, 0, -1)) do
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

-- A slot counts only while its task is as it was claimed, so a process that dies leaves none behind.
local function mark(id)
  local stored = call('HMGET', task_key(id), 'status', 'token', 'doc')
  -- The number of its retries: see `_DOC` of the codec.
  local sound, doc = pcall(cjson.decode, stored[3])
  return LIVE[stored[1]] and sound and stored[2] .. ':' .. tostring(doc[6])
end

local about = only ~= '' and call('HGET', P .. 'pool_of', only)
if about then take(only, unpack(cjson.decode(about))) end
if only == '' then
  local queue, limit, known = ARGV[6], tonumber(ARGV[7]), {}
  for _, group in ipairs(cjson.decode(ARGV[8])) do known[group] = true end
  local slots = ARGV[9] ~= '' and P .. 'pool_slots:' .. queue
  if slots then
    local held, stored = 0, call('HGETALL', slots)
    for n = 1, #stored, 2 do
      if mark(stored[n]) == stored[n + 1] then held = held + 1 else call('HDEL', slots, stored[n]) end
    end
    limit = math.min(limit, tonumber(ARGV[9]) - held)
  end
  local chosen, first, step = {}, 0, math.max(limit, 100)
  if ARGV[10] ~= '' then
    local about = limit > 0 and call('HGET', P .. 'pool_of', ARGV[10])
    about = about and cjson.decode(about)
    if about and about[1] == queue and known[string.sub(about[2], 2)] then chosen = {{ARGV[10], about}} end
    limit = 0
  end
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
  flush()
  if slots then
    for _, one in ipairs(chosen) do call('HSET', slots, one[1], mark(one[1]) or '') end
  end
end
flush()

local out = {}
for n, one in ipairs(taken) do
  if only == '' then call('RPUSH', handed, one[1]) end
  out[n] = {row(one[1]), one[2]}
end
return out
