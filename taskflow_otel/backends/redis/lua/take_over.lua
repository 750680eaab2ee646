-- ARGV: writer, number, new owner, limit, whether the answer to the previous call was lost, then JSON: the dead
-- instances, and the groups to take, without their first character (false for all). Returns the rows taken.
if superseded(ARGV[1], ARGV[2]) then return false end

local owner, limit = ARGV[3], tonumber(ARGV[4])
local handed = P .. 'handed:' .. owner
local taken = {}

if ARGV[5] == '1' then
  -- The tasks of a lost answer already belong to this owner: no one else would ever run them.
  for _, id in ipairs(call('LRANGE', handed, 0, -1)) do
    local stored = call('HMGET', task_key(id), 'owner', 'status')
    if stored[1] == owner and LIVE[stored[2]] then taken[#taken + 1] = id end
  end
end
call('DEL', handed)

local names = cjson.decode(ARGV[7])
local known
if names then
  known = {}
  for _, name in ipairs(names) do known[name] = true end
end

local orphans = {}
for _, from in ipairs(cjson.decode(ARGV[6])) do
  if from ~= owner then
    for _, group in ipairs(call('SMEMBERS', P .. 'groups:' .. from)) do
      if not known or string.sub(group, 1, 1) == '0' or known[string.sub(group, 2)] then
        local some = call('ZRANGE', live_key(from, group), 0, limit - 1, 'WITHSCORES')
        for n = 1, #some, 2 do
          orphans[#orphans + 1] = {id = some[n], created = some[n + 1], from = from, group = group}
        end
      end
    end
  end
end
table.sort(orphans, function(a, b)
  if a.created ~= b.created then return tonumber(a.created) < tonumber(b.created) end
  return a.id < b.id
end)

for n = 1, math.min(#orphans, limit - #taken) do
  local one = orphans[n]
  pass_on(one.id, one.from, owner, one.group, one.created)
  taken[#taken + 1] = one.id
end
flush()

local out = {}
for n, id in ipairs(taken) do
  call('RPUSH', handed, id)
  out[n] = row(id)
end
return out
