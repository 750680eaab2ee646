-- Prepended to every other script. KEYS[1] is the hash tag with which all keys begin, so that they share one slot.
--
--   task:<id>         hash: owner, token, status, dims, search, head, doc; where they apply also key, duration,
--                     cancel, retried_by, failures, fingerprint (once it has ended)
--   logs:<id>         hash: seq -> entry
--   spans:<id>        hash: attempt -> spans
--   index:<status>:<dimension>   ids by creation time
--   duration_sum, duration_count hash: <status>:<dimension> -> microseconds, number
--   keys              hash: idempotency key -> id of its holder
--   once, once_names  hash: name used once -> id of the task that used it; its names, in order
--   settings, setting_names      hash: key -> value; its keys, in order
--   groups:<owner>    set of the groups below; a group is '1' (persisted) or '0', then the task's name and seal
--   live:<owner>:<group>         ids of unfinished tasks by creation time
--   cancel:<owner>    set of live ids for which a cancellation was requested
--   changed:<owner>   ids by the time of their last write; owners: the owners by the time of their last write
--   finished          ids by end time
--   failed:<fingerprint>         ids of tasks that ended with this failure, by end time; open:<fingerprint>: those of
--                     them that were not retried; fingerprints: set of the fingerprints of which there are such tasks
--   instances, instance:<id>     set, and one hash each: doc, heartbeat, state, declared_by
--   handed:<owner>    ids returned by the latest take_over
--   pool:<queue>      ids of the tasks that nobody owns, by negative priority; ids of one score are ordered by age
--   pool_of           hash: id of each of them -> queue, group, creation time and time since when it is ready, as JSON
--   pool_queues       set of the queues that have ever had tasks in the pool
--   pool_slots:<queue>           hash: id of each claimed task that holds a slot of all instances -> its token and retries
--   claimed:<owner>   ids returned by the latest claim
--   writer:<id>       number of a writer's latest ordered call; the one kind of key that expires
--   audit             ids of the audit by time; audit_of:<id>: those about a task or an operation
--   audit_entries     hash: id -> entry of the audit
--   operations        ids of bulk operations; operations_open: those that have not ended; operations_ended: by end time
--   operations_of:<task>         ids of the operations with a task
--   operation:<id>    hash: token, kind, status, key, doc; once it has ended also ended, forgotten (items deleted)
--   operation_items:<id>         hash: position -> item
--   operation_keys    hash: client's key -> id of its operation
--   figures:<span>    slots of the figures, by their beginning; figures:<span>:tasks:<slot> and figures:<span>:micros:<slot>
--                     hashes: <kind>:<bucket>:<task name> -> number, microseconds
--   schema            version
local P = KEYS[1] .. ':'
local call = redis.call
local LIVE = {pending = true, running = true}

local function task_key(id) return P .. 'task:' .. id end
local function index_key(dim, status) return P .. 'index:' .. status .. ':' .. dim end
-- With the length, two different pairs of owner and group never get the same key.
local function live_key(owner, group) return P .. 'live:' .. #owner .. ':' .. owner .. ':' .. group end

-- Microseconds of the server's clock, plus one for each call within a script, so that a batch keeps its order.
local moment
local function now()
  if not moment then
    local time = call('TIME')
    moment = tonumber(time[1]) * 1000000 + tonumber(time[2])
  end
  moment = moment + 1
  return moment
end

-- A call that timed out can arrive after a newer call of the same client; it must not be applied then.
local function superseded(writer, number)
  local key = P .. 'writer:' .. writer
  local latest = call('GET', key)
  if latest and tonumber(number) < tonumber(latest) then return true end
  call('SET', key, number, 'EX', 3600)
  return false
end

local function row(id)
  local found = call('HMGET', task_key(id), 'owner', 'token', 'status', 'cancel', 'retried_by', 'head', 'doc', 'failures')
  found[#found + 1] = id
  return found
end

-- Changes of sorted sets and counters are collected and written at the end of the script, one command for each key: a
-- batch then needs dozens of commands and not thousands. Scripts that use these functions must end with flush().
local members, durations, groups, owners = {}, {}, {}, {}

local function gathered(key)
  local set = members[key]
  if not set then
    set = {}
    members[key] = set
  end
  return set
end

local function place(key, id, score) gathered(key)[id] = score end

local function count_duration(field, micros, number)
  local sum = durations[field] or {0, 0}
  durations[field] = sum
  sum[1] = sum[1] + micros
  sum[2] = sum[2] + number
end

-- Most tasks of a batch have the same dimensions, so the key names are computed once.
local indexes = {}
local function indexes_of(status, dims)
  local of_status = indexes[status]
  if not of_status then
    of_status = {}
    indexes[status] = of_status
  end
  local found = of_status[dims]
  if not found then
    found = {sets = {}, fields = {}}
    for n, dim in ipairs(cjson.decode(dims)) do
      found.sets[n], found.fields[n] = gathered(index_key(dim, status)), status .. ':' .. dim
    end
    of_status[dims] = found
  end
  return found
end

-- `score` false removes the task; its duration is added or subtracted too.
local function index(id, score, status, dims, duration)
  local found = indexes_of(status, dims)
  for _, set in ipairs(found.sets) do set[id] = score end
  if duration then
    local sign = score and 1 or -1
    for _, field in ipairs(found.fields) do count_duration(field, sign * duration, sign) end
  end
end

-- `score` false removes the task, here and below.
local function live(id, score, owner, group)
  local key = live_key(owner, group)
  if not groups[key] then groups[key] = {owner, group} end
  place(key, id, score)
end

local function changed(id, score, owner)
  local set = owners[owner]
  if not set then
    set = gathered(P .. 'changed:' .. owner)
    owners[owner] = set
  end
  set[id] = score
end

-- A finished task whose latest failure has this fingerprint.
local fingerprints = {}
local function failure(id, ended, fingerprint, not_retried)
  fingerprints[fingerprint] = true
  place(P .. 'failed:' .. fingerprint, id, ended)
  if not ended or not_retried then place(P .. 'open:' .. fingerprint, id, ended) end
end

-- Makes `to` the owner of a live task, with a new token.
local function pass_on(id, from, to, group, created)
  live(id, false, from, group)
  changed(id, false, from)
  call('HINCRBY', task_key(id), 'token', 1)
  call('HSET', task_key(id), 'owner', to)
  live(id, created, to, group)
  changed(id, now(), to)
  if call('SREM', P .. 'cancel:' .. from, id) == 1 then call('SADD', P .. 'cancel:' .. to, id) end
end

-- Deletes a finished task.
local function delete(id)
  local stored = call('HMGET', task_key(id), 'owner', 'status', 'dims', 'key', 'duration', 'fingerprint')
  index(id, false, stored[2], stored[3], stored[5] and tonumber(stored[5]))
  changed(id, false, stored[1])
  if stored[4] then call('HDEL', P .. 'keys', stored[4]) end
  place(P .. 'finished', id, false)
  if stored[6] then failure(id, false, stored[6]) end
  call('UNLINK', task_key(id), P .. 'logs:' .. id, P .. 'spans:' .. id)
end

-- Lua's stack holds some thousands of arguments.
local CHUNK = 2000

local function flush_members(key, set)
  local adding, added, removing, removed = {}, 0, {}, 0
  for id, score in pairs(set) do
    if score then
      adding[added + 1], adding[added + 2] = score, id
      added = added + 2
    else
      removed = removed + 1
      removing[removed] = id
    end
  end
  for n = 1, added, CHUNK do call('ZADD', key, unpack(adding, n, math.min(n + CHUNK - 1, added))) end
  for n = 1, removed, CHUNK do call('ZREM', key, unpack(removing, n, math.min(n + CHUNK - 1, removed))) end
end

local function flush()
  for key, set in pairs(members) do flush_members(key, set) end
  for field, sum in pairs(durations) do
    if call('HINCRBY', P .. 'duration_count', field, sum[2]) == 0 then
      call('HDEL', P .. 'duration_count', field)
      call('HDEL', P .. 'duration_sum', field)
    else
      call('HINCRBY', P .. 'duration_sum', field, string.format('%.0f', sum[1]))
    end
  end
  for fingerprint in pairs(fingerprints) do
    local there = call('EXISTS', P .. 'failed:' .. fingerprint) == 1
    call(there and 'SADD' or 'SREM', P .. 'fingerprints', fingerprint)
  end
  for key, pair in pairs(groups) do
    call(call('EXISTS', key) == 1 and 'SADD' or 'SREM', P .. 'groups:' .. pair[1], pair[2])
  end
  for owner in pairs(owners) do
    if call('EXISTS', P .. 'changed:' .. owner) == 1 then
      call('ZADD', P .. 'owners', now(), owner)
    else
      call('ZREM', P .. 'owners', owner)
    end
  end
end
