-- ARGV: writer, number, JSON list of the changes, then in their order doc and head of each insert, and its key in the form
-- of version 0.1.0 if that differs; doc of each update:
--   [I, id, owner, token, status, dims, key, holds, duration, end, search, group, created, figures, failed, cancel,
--     retried_by, once, task that this one retries, the retry of it that was seen, whether its key has another form]
--   [U, id, owner, token, status, dims, key, holds, duration, end, search, group, created, figures, failed]
--   [L, id, seq, entry, seq, entry, ...]
--   [T, id, owner, token, attempt, spans]
-- An empty text stands for "none" (null for a key, which may be empty); `holds` tells whether the key is held in this
-- status; `duration` and `end` are given for finished tasks only, and so are the entries of `figures`: [minute, hour, field,
-- microseconds, field, microseconds, ...]. `failed` is empty for a task that never failed, else the fingerprint of its latest
-- failure (empty if it is over it), and its failures.
-- Returns one text for each change: A applied, S stale, D<id> duplicate of <id>. If an instance was declared dead whose
-- id a change carries, nothing is applied, and its id is returned.
if superseded(ARGV[1], ARGV[2]) then return false end

local texts = 3
local function next_text()
  texts = texts + 1
  return ARGV[texts]
end

-- Gathered, so that a batch needs one command for each figure, and not for each task.
local sums = {}
local function count_figures(figures)
  for n = 3, #figures, 2 do
    for at, span in ipairs({'minute', 'hour'}) do
      local slot = span .. ' ' .. figures[at]
      local found = sums[slot]
      if not found then
        found = {tasks = {}, micros = {}}
        sums[slot] = found
      end
      local field = figures[n]
      found.tasks[field] = (found.tasks[field] or 0) + 1
      found.micros[field] = (found.micros[field] or 0) + figures[n + 1]
    end
  end
end

local function flush_figures()
  for name, found in pairs(sums) do
    local span, slot = string.match(name, '(%a+) (%d+)')
    local key = P .. 'figures:' .. span
    call('ZADD', key, slot, slot)
    for field, number in pairs(found.tasks) do call('HINCRBY', key .. ':tasks:' .. slot, field, number) end
    for field, micros in pairs(found.micros) do
      call('HINCRBY', key .. ':micros:' .. slot, field, string.format('%.0f', micros))
    end
  end
end

-- `retried_by` is empty for a task that was not retried.
local function note_failure(id, status, failed, ended, retried_by)
  call('HSET', task_key(id), 'failures', failed[2])
  if LIVE[status] or failed[1] == '' then return end
  call('HSET', task_key(id), 'fingerprint', failed[1])
  failure(id, ended, failed[1], retried_by == '')
end

local function insert(change)
  local doc, head = next_text(), next_text()
  local _, id, owner, token, status, dims, key, holds, duration, ended, search, group, created, figures, failed,
    cancel, retried_by, once, original, seen, reshaped = unpack(change)
  local old_key = reshaped ~= '' and next_text()
  local task = task_key(id)
  local stored = call('HMGET', task, 'owner', 'token')
  if stored[1] then
    return (stored[1] == owner and stored[2] == token) and 'A' or 'S'
  end
  local linked = original ~= '' and call('HMGET', task_key(original), 'owner', 'retried_by', 'fingerprint')
  if linked and linked[1] and linked[2] and linked[2] ~= seen and linked[2] ~= id then return 'D' .. linked[2] end
  local user = once ~= '' and call('HGET', P .. 'once', once)
  if user and user ~= id then return 'D' .. user end
  local holder = holds and old_key and call('HGET', P .. 'keys', old_key)
  if holder and holder ~= id then return 'D' .. holder end
  if holds and call('HSETNX', P .. 'keys', key, id) == 0 then
    return 'D' .. call('HGET', P .. 'keys', key)
  end
  if linked and linked[1] then
    call('HSET', task_key(original), 'retried_by', id)
    changed(original, now(), linked[1])
    if linked[3] then place(P .. 'open:' .. linked[3], original, false) end
  end
  if once ~= '' then
    call('HSET', P .. 'once', once, id)
    call('ZADD', P .. 'once_names', 0, once)
  end
  local fields = {'owner', owner, 'token', token, 'status', status, 'dims', dims,
    'search', search, 'doc', doc, 'head', head}
  if holds then
    fields[#fields + 1] = 'key'
    fields[#fields + 1] = key
  end
  local optional = {duration = duration, cancel = cancel, retried_by = retried_by}
  for name, value in pairs(optional) do
    if value ~= '' then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  call('HSET', task, unpack(fields))
  if failed[1] then note_failure(id, status, failed, ended, retried_by) end
  index(id, created, status, dims, tonumber(duration))
  if LIVE[status] then
    live(id, created, owner, group)
    if cancel ~= '' then call('SADD', P .. 'cancel:' .. owner, id) end
  else
    place(P .. 'finished', id, ended)
    count_figures(figures)
  end
  changed(id, now(), owner)
  return 'A'
end

local function update(change)
  local doc = next_text()
  local _, id, owner, token, status, dims, key, holds, duration, ended, search, group, created, figures, failed =
    unpack(change)
  local task = task_key(id)
  local before = call('HMGET', task, 'owner', 'token', 'status', 'dims')
  if before[1] ~= owner or before[2] ~= token then return 'S' end
  -- Only a repeated write finds a finished task with its own token.
  if not LIVE[before[3]] then return 'A' end
  if before[3] ~= status or before[4] ~= dims then
    index(id, false, before[3], before[4], nil)
    index(id, created, status, dims, tonumber(duration))
  end
  if duration == '' then
    call('HSET', task, 'status', status, 'dims', dims, 'search', search, 'doc', doc)
  else
    call('HSET', task, 'status', status, 'dims', dims, 'search', search, 'doc', doc, 'duration', duration)
  end
  if failed[1] then note_failure(id, status, failed, ended, call('HGET', task, 'retried_by') or '') end
  if not LIVE[status] then
    live(id, false, owner, group)
    place(P .. 'finished', id, ended)
    count_figures(figures)
    call('SREM', P .. 'cancel:' .. owner, id)
    if key ~= cjson.null and not holds then
      -- As it was stored: an earlier version may have written another form of the same key.
      local held = call('HGET', task, 'key')
      if held then
        call('HDEL', task, 'key')
        call('HDEL', P .. 'keys', held)
      end
    end
  end
  changed(id, now(), owner)
  return 'A'
end

local function append_logs(change)
  local id = change[2]
  -- The log of a task that retention has deleted would stay for ever.
  if call('EXISTS', task_key(id)) == 0 then return 'A' end
  for n = 3, #change, 2 do call('HSETNX', P .. 'logs:' .. id, change[n], change[n + 1]) end
  return 'A'
end

-- Spans of an attempt; dropped if the task has another owner now.
local function append_spans(change)
  local _, id, owner, token, attempt, spans = unpack(change)
  local stored = call('HMGET', task_key(id), 'owner', 'token')
  if stored[1] == owner and stored[2] == token then call('HSETNX', P .. 'spans:' .. id, attempt, spans) end
  return 'A'
end

local changes = cjson.decode(ARGV[3])
local living = {}
for _, change in ipairs(changes) do
  local owner = change[3]
  if change[1] ~= 'L' and change[1] ~= 'T' and not living[owner] then
    if call('HGET', P .. 'instance:' .. owner, 'state') == 'dead' then return owner end
    living[owner] = true
  end
end

local apply = {I = insert, U = update, L = append_logs, T = append_spans}
local results = {}
for n, change in ipairs(changes) do results[n] = apply[change[1]](change) end
flush()
flush_figures()
return results
