-- tests/spec/sim_conformance_spec.lua: the simulated server is asked what real servers were asked, and has to answer as
-- they did: requests and sockets of every recorded scenario, in the recorded order and at the same place in the job.
--
-- What may differ, and why (sections are those of comfyui-protocol.md, README is that of the recordings):
--   ids        Prompt ids and made-up sids are compared by when they were given out (2.1, 3.1).
--   numbers    The server's own job numbers count from the first one of the scenario: the real server had run before (2.1).
--   times      Timestamps are any milliseconds; speed and pauses are the machine's.
--   HTTP/WS    Nothing is said about a reply against a frame, nor one socket against another: separate connections (README).
--   sets       errors, dependent_outputs, executed, current_outputs, execution_cached.nodes and the outputs to run have no
--              order (2.1, 3.6; README).
--   node order Nodes that do not need each other run in any order (5.2). So messages are compared node by node; which nodes
--              overlap in time, and that none starts before what it needs has ended, is compared on top.
--   snapshots  Each progress_state is compared by what it changes against the one before: the rest follows from the order.
--              Nothing may vanish from one.
--   reports    Where the real server thinned the reports of a node, which ones remain is chance, except the first and the
--              last (3.6). A socket that joins in mid job starts with any report (3.3), and a job that is interrupted or killed
--              ends after any (2.5), but not before the one that was seen when it was asked for.
--   executed   In errors and interrupts: the nodes that ended before, as the socket itself saw them (3.6).
--   file names The letters of temporary files are random, one set for a node (5.7); counters go on from what is on the disk.
--   values     Tracebacks, printed tensors, pictures: only that they are there, and the size and format of pictures.
--   status     One more prompt in the queue may be told anywhere: the request comes on a connection of its own, and races with
--              the job (README). How often it is told is compared, and all other status messages in their places (3.6, 3.7).
local H = require "helper"
local moonpool = require "moonpool"
local json = moonpool.json

local versions = { "0.18.1", "2024-10" }
local scenarios = {
  "anonymous_previews", "api_prefix", "async_nodes", "cached_rerun", "connect", "error_with_nan", "execution_blocked", "extra_data", "feature_flags",
  "free_memory", "history", "http_errors", "interrupt_anonymous", "interrupt_by_id", "interrupt_deaf_node", "interrupt_idle", "interrupt_in_expansion",
  "interrupt_no_body", "interrupt_running", "interrupt_too_late", "jobs_api", "lazy_input", "list_execution", "loops", "never_cached", "node_error",
  "node_error_two_outputs", "node_expansion", "node_oom", "normal_run", "object_info", "onlooker", "output_kinds", "own_prompt_id", "partial_targets",
  "partly_cached", "partly_valid", "plain_value_for_link", "preview_metadata_off", "preview_metadata_on", "progress_many", "progress_previews",
  "progress_text", "queue_clear", "queue_delete", "queue_front", "queue_many", "reconnect_in_mid_job", "same_client_id", "seed_64bit", "server_ctrl_c",
  "server_info", "server_killed", "server_stopped", "text_to_image", "text_to_image_metadata", "two_clients", "type_coercion", "upload_image", "upload_mask",
  "validation_errors", "view",
}
-- Left out: body_limits (needs start options of the server), frames_before_reply (one of 2909 attempts at a race),
-- object_info_full (headers of a file: its content is what the sim is started with).

-- Recorded only with the newer server: nothing to compare on the older one.
local only_new = { async_nodes = true, jobs_api = true, partial_targets = true, preview_metadata_off = true, preview_metadata_on = true, text_to_image_metadata = true }

-- Messages are missing in the recording, of some prompts from the middle to the end: the others are compared, and in which
-- order those prompts started whose start is there.
local holes = { queue_front = true }

-- Requests that are not sent, by scenario and pattern of the path: parts of the server that know nothing of jobs, or
-- that depend on what is installed.
local not_asked = {
  server_info = { "^/models", "^/users", "^/settings", "^/i18n", "^/view_metadata", "^/userdata", "^/experiment", "^/workflow_templates", "^/internal" },
  api_prefix = { "^/api/users" },
}

local AT_ONCE = 32                               -- scenarios that run side by side, each with its own sim
local PATIENCE = 4000                            -- ms to wait for a message that came in the recording
local GRACE = 30                                 -- ms at the end of a scenario for what should not come

-- ---- small things ------------------------------------------------------------------------------------------------------

local is_array
do
  local arrays = getmetatable(json.array {})
  function is_array(v) return type(v) == "table" and getmetatable(v) == arrays end
end

local from_base64
do
  local value = {}
  for i = 1, 64 do value[("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):byte(i)] = i - 1 end
  function from_base64(text)
    local out, bits, n = {}, 0, 0
    for i = 1, #text do
      local v = value[text:byte(i)]
      if v then
        bits, n = bits << 6 | v, n + 6
        if n >= 8 then
          n = n - 8
          out[#out + 1] = string.char(bits >> n & 255)
          bits = bits & (1 << n) - 1
        end
      end
    end
    return table.concat(out)
  end
end

-- Sorted keys, so that what is printed is the same each time.
local function sorted_keys(t)
  local list = {}
  for k in pairs(t) do list[#list + 1] = k end
  table.sort(list, function(a, b) return tostring(a) < tostring(b) end)
  return list
end

-- A value as text; integers and floats stay apart.
local function text_of(v)
  if type(v) == "string" then return ("%q"):format(v) end
  if math.type(v) == "float" then
    if v ~= v then return "NaN" end
    local s = ("%.17g"):format(v)
    return s:find "[.eni]" and s or s .. ".0"
  end
  if v == json.null then return "null" end
  if type(v) ~= "table" then return tostring(v) end
  local parts = {}
  if is_array(v) then
    for i = 1, #v do parts[i] = text_of(v[i]) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for _, k in ipairs(sorted_keys(v)) do parts[#parts + 1] = ("%s:%s"):format(k, text_of(v[k])) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function short(s, n)
  n = n or 300
  return #s <= n and s or s:sub(1, n // 2) .. " ... " .. s:sub(-n // 2)
end

-- The kind of a picture, with its size where that is easily read.
local function picture(bytes)
  if bytes:sub(1, 4) == "\x89PNG" then
    if #bytes < 24 then return "PNG, cut" end
    local w, h = string.unpack(">I4I4", bytes, 17)
    return ("PNG %dx%d"):format(w, h)
  end
  if bytes:sub(1, 2) == "\xff\xd8" then return "JPEG" end
  if bytes:sub(1, 4) == "RIFF" and bytes:sub(9, 12) == "WEBP" then return "WebP" end
  return ("%d bytes"):format(#bytes)
end

-- ---- recordings --------------------------------------------------------------------------------------------------------

local function folder(version) return H.shared .. "/recordings/" .. version .. "/" end

local function catalogue(version)
  local p = assert(io.popen("zcat '" .. folder(version) .. "object_info.json.gz'"))
  local text = p:read "a"
  p:close()
  assert.is_true(#text > 100000)
  return text
end

-- The bytes of a request's body, as recorded: text taken literally, or the JSON as it stands in the line.
local function body_of(d)
  if d.request_text then return d.request_text end
  local at = select(2, d.raw:find('"request_json": ', 1, true))
  if at then return d.raw:match("^%b{}", at + 1) or d.raw:match("^%b[]", at + 1) end
end

local function frame_of(d)
  local f = { t = d.t_ms }
  if d.text then
    f.raw, f.message = d.text, assert(json.decode(d.text))
  else
    f.bytes = from_base64(d.binary_base64)
  end
  return f
end

-- A scenario: what the client did, in order of time, and what each socket got.
local function scenario(version, name)
  local s = { actions = {}, conns = {}, opened = {}, uploads = {} }
  local function act(t, what, d) s.actions[#s.actions + 1] = { t = t, what = what, d = d, at = #s.actions } end
  local note = ""
  for line in io.lines(folder(version) .. name .. ".jsonl") do
    local d = assert(json.decode(line))
    d.raw, d.note = line, note
    if d.dir == "note" then
      note = d.text
      if note:find "SIGKILL" then act(d.t_ms, "killed", d)
      elseif note:find "^SIG" then act(d.t_ms, "stopped", d)
      elseif note:find "server is back" then act(d.t_ms, "back", d) end
    elseif d.dir == "http" then
      -- An interrupt is placed by its reply: what was seen until then came before it took effect.
      act(d.path:find "/interrupt$" and d.t_ms or d.t_sent_ms or d.t_ms, "http", d)
      for _, p in ipairs(d.request_multipart or {}) do
        if p.content_base64 then s.uploads[from_base64(p.content_base64)] = true end
      end
    elseif d.event == "open" then
      s.conns[d.conn] = { frames = {}, path = d.path }
      s.opened[#s.opened + 1] = d.conn
      act(d.t_ms, "open", d)
    elseif d.event == "close" then
      s.conns[d.conn].closed = { by = d.by, code = d.code }
      if d.by == "client" then act(d.t_ms, "close", d) else act(d.t_ms, "cut", d) end
    elseif d.text or d.binary_base64 then
      local frames = s.conns[d.conn].frames
      frames[#frames + 1] = frame_of(d)
    elseif d.sent_text or d.sent_binary_base64 then act(d.t_ms, "say", d)
    end                                          -- pings and pongs: not part of the JSON protocol
  end
  table.sort(s.actions, function(a, b)
    if a.t ~= b.t then return a.t < b.t end
    return a.at < b.at
  end)
  return s
end

local function is_prompt_post(d) return d.method == "POST" and d.path:find "/prompt$" ~= nil end

-- ---- sides -------------------------------------------------------------------------------------------------------------

-- A side is one of the two servers in one scenario: the names it gave its prompts, where its numbers start, its files.
local function new_side() return { names = {}, count = 0, prompts = {}, bases = {}, nodes_of = {} } end

local function learn(side, reply, request)
  local id = reply and reply.prompt_id
  if type(id) ~= "string" then return end
  side.count = side.count + 1
  if not side.names[id] then side.names[id] = "<p" .. side.count .. ">" end
  side.prompts[side.names[id]] = request
  if math.type(reply.number) == "integer" and not side.base then side.base = math.abs(reply.number) end
end

local function own_number(side, v)
  if math.type(v) ~= "integer" or not side.base then return v end
  return v < 0 and ("-#%d"):format(-v - side.base) or ("#%d"):format(v - side.base)
end

-- A file's name without what is random; the letters stand for the nodes they were seen with.
local function file_name(side, name)
  local letters, count = name:match "^ComfyUI_temp_(%l%l%l%l%l)_(%d%d%d%d%d)_%.png$"
  if letters then return ("temp of %s, %d"):format(table.concat(sorted_keys(side.nodes_of[letters] or {}), " "), count) end
  local prefix, n = name:match "^(.*)_(%d%d%d%d%d)_%.png$"
  if not prefix then return name end
  return ("%s, %d after the first"):format(prefix, n - (side.bases[prefix] or n))
end

-- Looks at all file names first: which node has which letters, and each prefix's lowest counter.
local function learn_files(side, v, node)
  if type(v) ~= "table" then return end
  if type(v.filename) == "string" then
    local letters = v.filename:match "^ComfyUI_temp_(%l%l%l%l%l)_%d%d%d%d%d_%.png$"
    local prefix, n = v.filename:match "^(.*)_(%d%d%d%d%d)_%.png$"
    if letters and node then
      side.nodes_of[letters] = side.nodes_of[letters] or {}
      side.nodes_of[letters][node] = true
    end
    if prefix and not letters then side.bases[prefix] = math.min(side.bases[prefix] or math.huge, tonumber(n)) end
  end
  for _, x in pairs(v) do learn_files(side, x, node) end
end

local sets = { errors = true, dependent_outputs = true, executed = true, current_outputs = true, nodes = true }
local times = { timestamp = true, create_time = true, execution_start_time = true, execution_end_time = true }

-- A value with everything that may differ taken out.
local function plain(side, v, key, in_inputs)
  if type(v) == "string" then
    if side.names[v] then return side.names[v] end
    if key == "filename" then return file_name(side, v) end
    if in_inputs and (v:find "^tensor%(" or v:find "^<object") then return "<object>" end
    return v
  end
  if times[key] and math.type(v) == "integer" and v > 1e12 then return "<ms>" end
  if type(v) ~= "table" then return v end
  local out = {}
  if is_array(v) then
    if key == "traceback" and #v > 0 then
      local all = true
      for _, x in ipairs(v) do all = all and type(x) == "string" end
      if all then return "<texts>" end
    end
    for i = 1, #v do out[i] = plain(side, v[i], nil, in_inputs) end
    if sets[key] then table.sort(out, function(a, b) return text_of(a) < text_of(b) end) end
    if key == "prompt" and #v == 5 then          -- an entry of the queue or the history
      out[1] = own_number(side, v[1])
      table.sort(out[5])
    end
    return json.array(out)
  end
  for k, x in pairs(v) do out[side.names[k] or k] = plain(side, x, k, in_inputs or k == "current_inputs") end
  return out
end

-- The differences of two plain values, each with the way to it.
local function differ(want, got, way, out)
  if #out > 40 then return end
  local both = type(want) == "table" and type(got) == "table" and is_array(want) == is_array(got)
  if not both then
    local a, b = text_of(want), text_of(got)
    if a ~= b then out[#out + 1] = ("%s: recorded %s, got %s"):format(way, short(a), short(b)) end
  elseif is_array(want) then
    if #want ~= #got then
      out[#out + 1] = ("%s: recorded %d elements %s, got %d %s"):format(way, #want, short(text_of(want)), #got, short(text_of(got)))
    else
      for i = 1, #want do differ(want[i], got[i], ("%s[%d]"):format(way, i), out) end
    end
  else
    for _, k in ipairs(sorted_keys(want)) do
      if got[k] == nil then out[#out + 1] = ("%s.%s is missing (recorded %s)"):format(way, k, short(text_of(want[k]), 120))
      else differ(want[k], got[k], way .. "." .. tostring(k), out) end
    end
    for _, k in ipairs(sorted_keys(got)) do
      if want[k] == nil then out[#out + 1] = ("%s.%s was not recorded (got %s)"):format(way, k, short(text_of(got[k]), 120)) end
    end
  end
end

-- ---- sending it all again ----------------------------------------------------------------------------------------------

-- A message as something to wait for: what it is, and of which prompt. Nil for those whose number may vary.
local function landmark(m)
  local d = m.data
  if m.type == "status" then
    if d.sid == nil and d.status.exec_info.queue_remaining == 0 then return "status 0", "" end
  elseif m.type ~= "progress_state" and m.type ~= "feature_flags" and d.prompt_id then
    local node = d.node or d.node_id or "-"
    return ("%s %s %s of "):format(m.type, node == json.null and "null" or node, d.value or ""), d.prompt_id
  end
end

local function count(counts, mark, id)
  counts[mark .. id] = (counts[mark .. id] or 0) + 1
  return counts[mark .. id]
end

-- The landmark to wait for before time t on a recorded socket: the last one, which one of its kind, and when it came.
local function landmark_before(frames, t)
  local last
  for _, f in ipairs(frames) do
    if f.t >= t then break end
    if f.mark then last = f end
  end
  if last then return last.mark, last.id, last.nth, last.t end
end

-- Whether some job of the recording was under way at t, as far as its sockets and replies tell.
local function busy_at(s, side, t)
  local state = {}
  for _, a in ipairs(s.actions) do
    local d = a.what == "http" and a.d
    if d and a.t < t and is_prompt_post(d) and type(d.response_json) == "table" and d.response_json.prompt_id then
      state[side.names[d.response_json.prompt_id]] = true
    end
  end
  local idle_since = -1
  for _, name in ipairs(s.opened) do
    for _, f in ipairs(s.conns[name].frames) do
      local m = f.message
      if f.t < t and m and m.type == "executing" and m.data.node == json.null then state[side.names[m.data.prompt_id]] = nil end
      if f.t < t and m and m.type == "status" and m.data.sid == nil and m.data.status.exec_info.queue_remaining == 0 then idle_since = math.max(idle_since, f.t) end
    end
  end
  if not next(state) then return false end
  for _, a in ipairs(s.actions) do               -- posted since the queue was last seen empty
    if a.what == "http" and a.t < t and a.t > idle_since and is_prompt_post(a.d) and a.d.status ~= 400 then return true end
  end
  return false
end

-- Whether a socket that is open at t gets more messages later: then the action belongs between two messages.
local function more_to_come(s, open, t)
  for name in pairs(open) do
    local last = s.conns[name].frames[#s.conns[name].frames]
    if last and last.t > t then return true end
  end
  return false
end

local function replace_ids(map, text)
  for old, new in pairs(map) do text = text:gsub(old:gsub("%p", "%%%0"), (new:gsub("%%", "%%%%"))) end
  return text
end

local function request_of(d, sim, ids)
  local o = { method = d.method, url = sim.url .. replace_ids(ids, d.path), timeout_ms = 10000 }
  local body = body_of(d)
  if body then o.body = replace_ids(ids, body) end
  if d.request_headers then
    o.headers = {}
    for k, v in pairs(d.request_headers) do o.headers[k] = v end
  end
  if d.request_multipart then
    o.parts = {}
    for i, p in ipairs(d.request_multipart) do
      o.parts[i] = { name = p.name, data = p.value or from_base64(p.content_base64), filename = p.filename, type = p.content_type }
    end
  elseif d.method == "POST" and not o.body then o.body = ""
  end
  return o
end

local function asked(name, d)
  for _, pattern in ipairs(not_asked[name] or {}) do
    if d.path:find(pattern) then return false end
  end
  return true
end

-- Sends a scenario to a sim. Gives {s, rec, got, conns, replies, lost}: both sides, what each socket got, the replies.
local function replay(name, s, sim)
  for _, conn in pairs(s.conns) do
    local counts = {}
    for _, f in ipairs(conn.frames) do
      if f.message then f.mark, f.id = landmark(f.message) end
      if f.mark then f.nth = count(counts, f.mark, f.id) end
    end
  end
  local r = { s = s, rec = new_side(), got = new_side(), conns = {}, replies = {}, lost = {} }
  for _, a in ipairs(s.actions) do
    if a.what == "http" and is_prompt_post(a.d) and type(a.d.response_json) == "table" then learn(r.rec, a.d.response_json, a.d) end
  end
  r.rec.base = nil                               -- counted again below, anew after each start of the server
  local ids, open, patience = {}, {}, PATIENCE
  local function wait_until(words, ready)
    for _ = 1, patience do
      if ready() then return end
      moonpool.sleep(1)
    end
    r.lost[#r.lost + 1] = "did not come: " .. words
    patience = 100
  end
  local previous = 0
  for _, a in ipairs(s.actions) do
    local d, since = a.d, previous
    for _, conn in ipairs(s.opened) do           -- the same messages have been seen
      local mark, id, n, came = landmark_before(s.conns[conn].frames, a.t)
      local c = r.conns[conn]
      if mark and c then
        since = math.max(since, came)
        local key = mark .. (ids[id] or id)
        wait_until(conn .. " " .. mark .. (r.rec.names[id] or ""), function() return (c.counts[key] or 0) >= n end)
      end
    end
    local pause = a.t - since
    if pause > 1 and busy_at(s, r.rec, a.t) then moonpool.sleep(more_to_come(s, open, a.t) and pause / 2 or pause) end
    previous = a.t
    if a.what == "http" and asked(name, d) then
      local reply, err = moonpool.http.request(request_of(d, sim, ids))
      local entry = { d = d, reply = reply, err = err, rec_base = r.rec.base, got_base = r.got.base }
      r.replies[#r.replies + 1] = entry
      if is_prompt_post(d) and type(d.response_json) == "table" and d.response_json.prompt_id then
        local answer = reply and json.decode(reply.body)
        if type(answer) ~= "table" then answer = {} end
        if not r.rec.base and math.type(d.response_json.number) == "integer" then r.rec.base = math.abs(d.response_json.number) end
        learn(r.got, type(answer.prompt_id) == "string" and answer or { prompt_id = "none " .. #r.replies }, d)
        if type(answer.prompt_id) == "string" then ids[d.response_json.prompt_id] = answer.prompt_id end
      end
      entry.rec_base, entry.got_base = r.rec.base, r.got.base
      previous = math.max(d.t_ms, a.t)
    elseif a.what == "open" then
      local c = { frames = {}, counts = {} }
      local ws, err = moonpool.ws.connect { url = sim.url:gsub("^http", "ws") .. d.path }
      if not ws then r.lost[#r.lost + 1] = ("%s could not connect: %s"):format(d.conn, tostring(err)) end
      c.ws = ws
      r.conns[d.conn], open[d.conn] = c, true
      if ws then
        moonpool.spawn(function()
          while true do
            local data, binary = ws:receive()
            if not data then
              c.code, c.ended = type(binary) == "table" and binary.code or nil, true
              return
            end
            local m = not binary and (json.decode(data) or { type = "no JSON", data = {} }) or nil
            c.frames[#c.frames + 1] = m and { raw = data, message = m } or { bytes = data }
            if m then
              local mark, id = landmark(m)
              if mark then count(c.counts, mark, id) end
            end
          end
        end)
        wait_until(d.conn .. " first message", function() return #c.frames > 0 end)
      end
    elseif a.what == "say" then
      local c = r.conns[d.conn]
      if c.ws then c.ws:send(d.sent_text or from_base64(d.sent_binary_base64), d.sent_binary_base64 ~= nil) end
      moonpool.sleep(5)                          -- so that what is answered to it stands before what comes of the next request
    elseif a.what == "close" then
      moonpool.sleep(GRACE)
      local c = r.conns[d.conn]
      if c.ws then
        c.ws:close(d.code)
        wait_until(d.conn .. " close", function() return c.ended end)
        moonpool.sleep(5)                        -- the server has seen it too
      end
      open[d.conn] = nil
    elseif a.what == "killed" then sim:restart(800)
    elseif a.what == "stopped" then sim:restart(60000)
    elseif a.what == "back" then
      r.rec.base, r.got.base = nil, nil
      wait_until("the server again", function() return (moonpool.http.request { url = sim.url .. "/prompt" }) ~= nil end)
    elseif a.what == "cut" then
      wait_until(d.conn .. " cut", function() return r.conns[d.conn].ended end)
      open[d.conn] = nil
    end
  end
  moonpool.sleep(GRACE)
  for _, c in pairs(r.conns) do
    if c.ws then c.ws:close() end
  end
  local function look(side, frames)
    for _, f in ipairs(frames) do
      if f.message and f.message.type == "executed" then learn_files(side, f.message.data.output, f.message.data.node) end
    end
  end
  for _, conn in ipairs(s.opened) do
    look(r.rec, s.conns[conn].frames)
    look(r.got, r.conns[conn].frames)
  end
  for _, e in ipairs(r.replies) do               -- outputs of jobs whose messages nobody got
    if e.d.path:find "/history" then
      local both = { [r.rec] = e.d.response_json, [r.got] = e.reply and json.decode(e.reply.body) }
      for side, list in pairs(both) do
        for _, entry in pairs(type(list) == "table" and list or {}) do
          for node, ui in pairs(type(entry) == "table" and entry.outputs or {}) do learn_files(side, ui, node) end
        end
      end
    end
  end
  return r
end

-- ---- comparing replies -------------------------------------------------------------------------------------------------

-- Only these fields of /system_stats are the same on every machine.
local function only_stats(v)
  local keep = { os = true, comfyui_version = true, embedded_python = true }
  for k in pairs(v.system or {}) do
    if not keep[k] then v.system[k] = v.system[k] == json.null and "<null>" or "<" .. type(v.system[k]) .. ">" end
  end
  for _, device in ipairs(v.devices or {}) do
    for k, x in pairs(device) do device[k] = k == "index" and "<index>" or "<" .. type(x) .. ">" end
  end
  return v
end

-- In which order the ids stand in a reply.
local function order_of(side, body)
  local list = {}
  for id in body:gmatch '"([^"]+)": ?{"prompt"' do list[#list + 1] = side.names[id] or id end
  return table.concat(list, " ")
end

local function special(entry, side, v)
  local d = entry.d
  if type(v) ~= "table" then return v end
  side.base = entry[side == entry.rec and "rec_base" or "got_base"]
  if is_prompt_post(d) then v.number = own_number(side, v.number) end
  if d.path:find "/system_stats$" then v = only_stats(v) end
  if d.path:find "/embeddings$" then v = is_array(v) and "<array>" or v end
  for _, list in ipairs { v.queue_running or {}, v.queue_pending or {} } do
    for i, item in ipairs(list) do list[i] = { prompt = item } end
  end
  for _, job in ipairs(d.path:find "/api/jobs" and (v.jobs or { v }) or {}) do job.priority = own_number(side, job.priority) end
  if v.LoadImage then v.LoadImage.input.required.image[1] = "<files>" end      -- whatever was uploaded before
  if d.note == "two required inputs missing on one node, one on another" then  -- judged in the order of a set (README)
    for _, n in pairs(v.node_errors) do n.dependent_outputs = nil end
  end
  return plain(side, v)
end

local wanted_headers = { "Content-Disposition", "Accept-Ranges", "Content-Range", "Content-Length", "ETag", "Last-Modified" }

local function compare_headers(d, reply, way, out)
  local changed = d.path:find "preview=" or d.path:find "channel="     -- made for this reply, not a file as it is
  for _, k in ipairs(wanted_headers) do
    local want, got = d.headers[k], reply.headers[k:lower()]
    if want and not got then out[#out + 1] = ("%s: header %s is missing (recorded %s)"):format(way, k, want)
    elseif got and not want and changed and (k == "ETag" or k == "Last-Modified" or k == "Accept-Ranges") then out[#out + 1] = ("%s: header %s was not recorded"):format(way, k)
    elseif k == "Content-Disposition" and want ~= got then out[#out + 1] = ("%s: %s: recorded %s, got %s"):format(way, k, want, got)
    elseif want and k == "Content-Range" and not got:find "^bytes 0%-15/%d+$" then out[#out + 1] = ("%s: %s: got %s"):format(way, k, got) end
  end
end

local function compare_reply(r, entry, out)
  local d, reply = entry.d, entry.reply
  local way = ("%s %s"):format(d.method, d.path)
  for id, p in pairs(r.rec.names) do way = way:gsub(id:gsub("%p", "%%%0"), p) end
  if d.note ~= "" and #d.note < 90 then way = way .. " (" .. d.note .. ")" end
  if d.error then
    if reply then out[#out + 1] = ("%s: recorded no connection, got %d"):format(way, reply.status) end
    return
  end
  if not reply then
    out[#out + 1] = ("%s: recorded %d, got %s"):format(way, d.status, tostring(entry.err))
    return
  end
  if d.status ~= reply.status then
    out[#out + 1] = ("%s: recorded %d, got %d %s"):format(way, d.status, reply.status, short(reply.body, 160))
    return
  end
  local want_type = d.content_type ~= json.null and d.content_type or ""
  if want_type ~= (reply.content_type or "") then out[#out + 1] = ("%s: recorded type %q, got %q"):format(way, want_type, reply.content_type or "") end
  if d.headers then compare_headers(d, reply, way, out) end
  if d.path == "/ws" then return end             -- the words are the HTTP library's (README)
  if d.response_base64 then
    local want = from_base64(d.response_base64)
    if r.s.uploads[want] and not d.path:find "channel" then
      if want ~= reply.body then out[#out + 1] = way .. ": not the bytes that were sent" end
    elseif picture(want) ~= picture(reply.body) then out[#out + 1] = ("%s: recorded %s, got %s"):format(way, picture(want), picture(reply.body)) end
  elseif want_type:find "^application/json" then
    local want, got = d.response_json or assert(json.decode(d.response_text)), json.decode(reply.body)
    if got == nil then
      out[#out + 1] = ("%s: no JSON: %s"):format(way, short(reply.body, 160))
      return
    end
    if d.path:find "/history" and not d.path:find "/history/" and d.response_json then
      local at = select(2, d.raw:find('"response_json": ', 1, true))
      local a, b = order_of(r.rec, d.raw:sub(at + 1)), order_of(r.got, reply.body)
      if a ~= b then out[#out + 1] = ("%s: recorded in the order %s, got %s"):format(way, a, b) end
    end
    entry.rec = r.rec
    differ(special(entry, r.rec, want), special(entry, r.got, got), way, out)
  elseif d.response_text ~= reply.body then out[#out + 1] = ("%s: recorded %q, got %q"):format(way, short(d.response_text or "", 160), short(reply.body, 160)) end
end

-- ---- comparing messages ------------------------------------------------------------------------------------------------

-- The fields of a message, of what is in a status and of a progress_state.
local known_keys = {
  ["data type"] = true, ["data type: status: exec_info: queue_remaining"] = true, ["data type: sid status: exec_info: queue_remaining"] = true,
  ["data type: nodes prompt_id"] = true,
}

-- What one socket got, taken apart: hello, other messages, the course of jobs and queue, and for each prompt what was
-- told of each node.
local function course(side, frames)
  local c = { others = {}, life = {}, prompts = {}, order = {}, faults = {} }
  local runs = {}                                -- the same id may be used again: a run of its own
  local function prompt(id, start)
    local p = side.names[id] or "<unknown>"
    if start and runs[p] then runs[p] = runs[p] .. " again"
    elseif start then runs[p] = p end
    p = runs[p] or p
    if not c.prompts[p] then
      c.prompts[p] = { name = p, nodes = {}, order = {}, snapshot = {}, whole = false }
      c.order[#c.order + 1] = p
    end
    c.current = c.prompts[p]
    return c.current
  end
  local function tell(p, node, i, item)
    local n = p.nodes[node]
    c.life[#c.life + 1] = "nodes of " .. p.name
    if not n then
      n = { first = i, items = {} }
      p.nodes[node] = n
      p.order[#p.order + 1] = node
    end
    n.last = i
    n.items[#n.items + 1] = item
  end
  local function next_node(i)
    for k = i + 1, #frames do
      local m = frames[k].message
      if m and m.type ~= "progress_state" and m.type ~= "status" then return m.data.node or m.data.node_id end
    end
  end
  local progress_node
  for i, f in ipairs(frames) do
    local m = f.message
    if f.bytes then
      local kind = #f.bytes >= 8 and string.unpack(">I4", f.bytes) or 0
      if kind == 1 then
        local item = { text = ("preview 1, format %d, %s"):format(string.unpack(">I4", f.bytes, 5), picture(f.bytes:sub(9)):match "^%a+"), report = true }
        if c.current then tell(c.current, progress_node or "?", i, item) end
      elseif kind == 3 then
        local node, at = string.unpack(">s4", f.bytes, 5)
        if c.current then tell(c.current, node, i, { text = "text " .. f.bytes:sub(at) }) end
      elseif kind == 4 then
        local head, at = string.unpack(">s4", f.bytes, 5)
        local meta = json.decode(head) or {}
        local item = { text = ("preview 4, %s, %s"):format(text_of(plain(side, meta)), picture(f.bytes:sub(at)):match "^%a+"), report = true }
        tell(prompt(meta.prompt_id), meta.node_id or "?", i, item)
      else c.faults[#c.faults + 1] = "a binary frame of type " .. kind end
    else
      local d, t = m.data, m.type
      local keys = table.concat(sorted_keys(m), " ")
      if t == "status" then keys = keys .. ": " .. table.concat(sorted_keys(d), " ") .. ": " .. table.concat(sorted_keys(d.status), " ") .. ": " .. table.concat(sorted_keys(d.status.exec_info), " ") end
      if t == "progress_state" then keys = keys .. ": " .. table.concat(sorted_keys(d), " ") end
      if not known_keys[keys] then c.faults[#c.faults + 1] = t .. " has the fields " .. keys end
      if f.raw:find "[\x80-\xff]" then c.faults[#c.faults + 1] = t .. " holds letters outside of ASCII unescaped" end
      if t == "status" and d.sid ~= nil then
        local hello = plain(side, d)
        if d.sid:find(("%x"):rep(32)) and not (side.path or ""):find(d.sid, 1, true) then hello.sid = "<32 hex digits>" end
        c.hello = c.hello or hello
        if i > 1 then c.faults[#c.faults + 1] = "status with sid is not the first message" end
      elseif t == "status" then c.life[#c.life + 1] = "status " .. d.status.exec_info.queue_remaining
      elseif t == "feature_flags" then c.others[#c.others + 1] = text_of(m)
      elseif t == "executing" and d.prompt_id == nil then
        c.others[#c.others + 1] = text_of(m)
        c.joined = true                          -- in mid job (3.2)
      elseif t == "executing" and d.node == json.null then
        c.life[#c.life + 1] = "end " .. prompt(d.prompt_id).name
        c.current.ended = true
        if text_of(plain(side, d)) ~= ("{node:null,prompt_id:%q}"):format(side.names[d.prompt_id] or d.prompt_id) then c.faults[#c.faults + 1] = "executing null: " .. text_of(d) end
      elseif t == "execution_start" or t == "execution_success" then
        local p = prompt(d.prompt_id, t == "execution_start")
        if t == "execution_start" then p.whole = true end
        c.life[#c.life + 1] = t .. " " .. text_of(plain(side, d))
      elseif t == "execution_cached" then
        prompt(d.prompt_id).cached = plain(side, d)
        c.life[#c.life + 1] = t .. " " .. c.current.name
      elseif t == "execution_interrupted" or t == "execution_error" then
        local p = prompt(d.prompt_id)
        local v = plain(side, d)
        local done, last = {}, nil               -- what has ended on this socket's own account
        for _, node in ipairs(p.order) do
          if p.nodes[node].announced and (not last or p.nodes[node].announced > p.nodes[last].announced) then last = node end
        end
        for node, n in pairs(p.nodes) do
          local above = last and last:sub(1, #node + 1) == node .. "."
          if n.announced and not n.told_running and node ~= last and not above then done[#done + 1] = node end
        end
        table.sort(done)
        if p.whole and is_array(v.executed) and table.concat(v.executed, " ") == table.concat(done, " ") then v.executed = "<what has ended>" end
        if d.exception_type == "ExecutionBlocked" then tell(p, d.node_id, i, { text = t .. " " .. text_of(v) })
        else
          c.life[#c.life + 1] = t .. " " .. p.name
          p.failure = v
        end
      elseif t == "progress_state" then
        local p, changed = prompt(d.prompt_id), {}
        local known = p.whole or next(p.snapshot) ~= nil or p.joined
        local places = {}                        -- a node comes behind those that were there
        for node in pairs(d.nodes) do places[#places + 1] = { f.raw:find(json.encode(node) .. ": {", 1, true) or 0, node } end
        table.sort(places, function(a, b) return a[1] < b[1] end)
        for place, x in ipairs(places) do
          p.places = p.places or {}
          p.places[x[2]] = p.places[x[2]] or place
          if p.places[x[2]] ~= place then c.faults[#c.faults + 1] = ("progress_state of %s has node %s at another place than before"):format(p.name, x[2]) end
        end
        for node, x in pairs(d.nodes) do
          local text = text_of(plain(side, x))
          if p.snapshot[node] ~= text then changed[#changed + 1] = { node = node, text = text, x = x } end
          p.snapshot[node] = text
        end
        for node in pairs(p.snapshot) do
          if d.nodes[node] == nil then
            c.faults[#c.faults + 1] = ("progress_state of %s without node %s, which was in the one before"):format(p.name, node)
            p.snapshot[node] = nil
          end
        end
        p.joined = true
        if #changed > 1 and known then
          local list = {}
          for _, x in ipairs(changed) do list[#list + 1] = x.node end
          table.sort(list)
          c.faults[#c.faults + 1] = ("progress_state of %s changes several nodes at once: %s"):format(p.name, table.concat(list, " "))
        end
        if #changed == 0 then
          local node = next_node(i)
          tell(p, type(node) == "string" and node or "?", i, { text = "state again" })
        end
        for _, x in ipairs(changed) do
          if known or #changed == 1 then
            local reported = x.x.state == "running" and math.type(x.x.value) == "integer"
            tell(p, x.node, i, { text = "state " .. x.text, report = reported or nil, value = reported and x.x.value or nil })
            p.nodes[x.node].told_running = x.x.state == "running" or nil
          end
        end
      elseif t == "executing" then
        local p = prompt(d.prompt_id)
        tell(p, d.node, i, { text = "executing " .. text_of(plain(side, d)) })
        p.nodes[d.node].announced, p.latest = i, d
      elseif t == "executed" then tell(prompt(d.prompt_id), d.node, i, { text = "executed " .. text_of(plain(side, d)) })
      elseif t == "progress" then
        local p = prompt(d.prompt_id)
        progress_node = d.node == json.null and "null" or d.node
        if p.latest and p.latest.display_node == d.node then progress_node = p.latest.node end       -- 2024-10 names that one
        tell(p, progress_node, i, { text = "progress " .. text_of(plain(side, d)), report = true, value = d.value })
      else c.faults[#c.faults + 1] = "a message of type " .. tostring(t) end
    end
  end
  return c
end

-- Whether some reports of a bar were left out.
local function thinned(items)
  local last
  for _, x in ipairs(items) do
    if x.report and x.value then
      if last and x.value > last + 1 then return true end
      last = x.value
    elseif not x.report then last = nil end
  end
  return false
end

-- Of each row of reports only the first and the last value; those between have to rise, and each to come with the same
-- messages in the same order.
local function ends_only(items)
  local out, i = {}, 1
  while i <= #items do
    if not items[i].report then
      out[#out + 1] = items[i]
      i = i + 1
    else
      local values, shapes, k = {}, {}, i       -- one value, and which messages told it
      while k <= #items and items[k].report do
        local v = items[k].value
        if v and v ~= values[#values] then values[#values + 1], shapes[#shapes + 1] = v, "" end
        if #shapes > 0 then shapes[#shapes] = shapes[#shapes] .. " " .. items[k].text:match "^%a+" end
        k = k + 1
      end
      local rising, seen, at = true, {}, nil
      for j = 2, #values do rising = rising and values[j] > values[j - 1] end
      for j = 2, #values - 1 do seen[shapes[j]] = true end
      for j = i, k - 1 do
        at = items[j].value or at
        if at == values[1] or at == values[#values] then out[#out + 1] = items[j] end
      end
      out[#out + 1] = { text = ("(between: %s,%s)"):format(rising and "rising" or "falling", table.concat(sorted_keys(seen), " |")) }
      i = k
    end
  end
  return out
end

local function texts(items)
  local list = {}
  for i, x in ipairs(items) do list[i] = x.text end
  return list
end

local function tail_of(list, n) return table.move(list, #list - n + 1, #list, 1, {}) end

-- `joined`: the socket came in mid job; `cut`: the job was ended from outside, after any report.
local function compare_node(way, want, got, joined, cut, out)
  local a, b = want.items, got.items
  if thinned(a) then a, b = ends_only(a), ends_only(b) end
  local x, y = texts(a), texts(b)
  if joined and #x ~= #y then                    -- it starts with any report
    local n = math.min(#x, #y)
    x, y = tail_of(x, n), tail_of(y, n)
  end
  if cut and #b == #y and #y > #x then
    local last = 0
    for _, item in ipairs(a) do last = item.value or last end
    for i = #y, #x + 1, -1 do                    -- reports beyond the recorded ones
      if b[i].report and (b[i].value or last + 1) > last then y[i] = nil end
    end
  end
  for i = 1, math.max(#x, #y) do
    if x[i] ~= y[i] then
      out[#out + 1] = ("%s, message %d: recorded %s, got %s"):format(way, i, short(x[i] or "no more"), short(y[i] or "no more"))
      return
    end
  end
end

-- The pairs of nodes of which one started before the other had ended. Which of two is first is not specified (protocol 5);
-- one that is still told as running at the end ran until then.
local function overlaps(p)
  local list = {}
  local function last(n) return n.told_running and math.huge or n.last end
  for i, a in ipairs(p.order) do
    for k = i + 1, #p.order do
      local b = p.order[k]
      if p.nodes[b].first < last(p.nodes[a]) then list[#list + 1] = a < b and a .. " with " .. b or b .. " with " .. a end
    end
  end
  table.sort(list)
  return table.concat(list, ", ")
end

-- Each node starts after all that it is linked to have ended, unless the recording says otherwise (lazy inputs).
local function compare_order(way, rec, got, request, out)
  local prompt = request and json.decode(body_of(request) or "")
  prompt = type(prompt) == "table" and prompt.prompt
  local function reach(p, id)                    -- with the nodes made by expanding it
    local first, last
    for node, n in pairs(p.nodes) do
      if node == id or node:sub(1, #id + 1) == id .. "." then first, last = math.min(first or n.first, n.first), math.max(last or n.last, n.last) end
    end
    return first, last
  end
  for id, node in pairs(type(prompt) == "table" and prompt or {}) do
    for _, v in pairs(type(node) == "table" and type(node.inputs) == "table" and node.inputs or {}) do
      if is_array(v) and type(v[1]) == "string" then
        local first, last = reach(got, id), select(2, reach(got, v[1]))
        local rec_first, rec_last = reach(rec, id), select(2, reach(rec, v[1]))
        local lazy = rec_first and rec_last and rec_first < rec_last
        if first and last and first < last and not lazy then out[#out + 1] = ("%s: node %s started before %s had ended"):format(way, id, v[1]) end
      end
    end
  end
  local function inner(p)
    local list = {}
    for _, node in ipairs(p.order) do
      if node:find(".", 1, true) then list[#list + 1] = node end
    end
    return table.concat(list, " ")
  end
  if inner(rec) ~= inner(got) then out[#out + 1] = ("%s: expanded nodes: recorded %s, got %s"):format(way, inner(rec), inner(got)) end
end

local function compare_prompt(way, rec, got, joined, r, out)
  if not rec or not got then
    out[#out + 1] = way .. (rec and ": nothing was told of it" or ": recorded nothing of it, got " .. table.concat(got.order, " "))
    return
  end
  differ(rec.cached or json.null, got.cached or json.null, way .. " execution_cached", out)
  differ(rec.failure or json.null, got.failure or json.null, way .. " failure", out)
  local before, cut = #out, not rec.ended or rec.failure ~= nil and rec.failure.exception_type == nil
  for _, node in ipairs(rec.order) do
    if not got.nodes[node] then out[#out + 1] = ("%s: nothing was told of node %s (recorded %s)"):format(way, node, short(rec.nodes[node].items[1].text, 120)) end
  end
  for _, node in ipairs(got.order) do
    if rec.nodes[node] then compare_node(("%s node %s"):format(way, node), rec.nodes[node], got.nodes[node], joined and not rec.whole, cut, out)
    else out[#out + 1] = ("%s: recorded nothing of node %s (got %s)"):format(way, node, short(got.nodes[node].items[1].text, 120)) end
  end
  if #out > before then return end
  if overlaps(rec) ~= overlaps(got) then out[#out + 1] = ("%s: nodes at the same time: recorded [%s], got [%s]"):format(way, overlaps(rec), overlaps(got)) end
  compare_order(way, rec, got, r.rec.prompts[rec.name:match "^<p%d+>"], out)
end

-- The course without the places where a prompt was added: each status as what it tells, messages of nodes as one, and how
-- many prompts were added.
local function without_additions(life)
  local list, now, added, ended = {}, 0, 0, false
  for _, x in ipairs(life) do
    local n = math.tointeger(tonumber(x:match "^status (%d+)$"))
    if not n then
      ended = ended or x:find "^execution_[sei]" and not x:find "^execution_start"
      if not (x:find "^nodes" and list[#list] == x) then list[#list + 1] = x end
    elseif n == now + 1 then added = added + 1
    elseif n == now then list[#list + 1] = "status: as many as before"
    elseif n == now - 1 and ended then
      list[#list + 1], ended = "status: one less, as a job ended", false
    else list[#list + 1] = ("status: %+d"):format(n - now) end
    now = n or now
  end
  return list, added, now
end

-- In a recording with holes: whole prompts only, and the order of starts.
local function compare_whole_ones(conn, rec, got, r, out)
  local at, ended = 1, {}
  for i, x in ipairs(rec.life) do
    if x:find "^execution_start" then
      while got.life[at] and got.life[at] ~= x do at = at + 1 end
      if not got.life[at] then out[#out + 1] = ("%s: %s did not come in the recorded order"):format(conn, x) end
    elseif x:find "^end" and (rec.life[i - 2] or ""):find "^execution_" then ended[x:sub(5)] = true
    end
  end
  local function of(life, p)
    local list = {}
    for _, x in ipairs(life) do
      if x:find(p, 1, true) and list[#list] ~= x then list[#list + 1] = x end
    end
    return json.array(list)
  end
  for _, p in ipairs(rec.order) do
    if rec.prompts[p].whole and ended[p] then
      differ(of(rec.life, p), of(got.life, p), conn .. " " .. p .. " course", out)
      compare_prompt(conn .. " " .. p, rec.prompts[p], got.prompts[p], false, r, out)
    end
  end
end

local function compare_socket(name, conn, r, out)
  local rec_conn, got_conn = r.s.conns[conn], r.conns[conn]
  r.rec.path, r.got.path = rec_conn.path, rec_conn.path
  local rec, got = course(r.rec, rec_conn.frames), course(r.got, got_conn.frames)
  for _, fault in ipairs(got.faults) do out[#out + 1] = conn .. ": " .. fault end
  differ(rec.hello or json.null, got.hello or json.null, conn .. " first message", out)
  differ(json.array(rec.others), json.array(got.others), conn .. " other messages", out)
  if holes[name] then return compare_whole_ones(conn, rec, got, r, out) end
  local a, want, rest = without_additions(rec.life)
  local b, have, left = without_additions(got.life)
  if table.concat(a, "\n") ~= table.concat(b, "\n") then
    local i = 1
    while a[i] == b[i] do i = i + 1 end
    local function around(list) return #list < i and "no more" or table.concat(list, ", ", i, math.min(i + 2, #list)) end
    out[#out + 1] = ("%s, course of jobs and queue, place %d: recorded %s; got %s"):format(conn, i, short(around(a)), short(around(b)))
  end
  if want ~= have or rest ~= left then
    out[#out + 1] = ("%s: recorded %d status messages of a prompt more and %d in the end, got %d and %d"):format(conn, want, rest, have, left)
  end
  for _, p in ipairs(rec.order) do compare_prompt(conn .. " " .. p, rec.prompts[p], got.prompts[p], rec.joined, r, out) end
  for _, p in ipairs(got.order) do
    if not rec.prompts[p] then compare_prompt(conn .. " " .. p, nil, got.prompts[p], false, r, out) end
  end
  if rec_conn.closed and rec_conn.closed.by == "server" and got_conn.code ~= rec_conn.closed.code then
    out[#out + 1] = ("%s: closed with %s, recorded %s"):format(conn, tostring(got_conn.code), tostring(rec_conn.closed.code))
  end
end

-- ---- the specs ---------------------------------------------------------------------------------------------------------

local function report(list)
  local more = #list > 12 and ("\n  and %d more"):format(#list - 12) or ""
  assert.is_true(#list == 0, ("%d differences\n  %s%s"):format(#list, table.concat(list, "\n  ", 1, math.min(#list, 12)), more))
end

local function exists(version, name)
  local f = io.open(folder(version) .. name .. ".jsonl")
  if f then f:close() end
  return f ~= nil
end

if not exists(versions[1], "normal_run") then
  describe("the sim beside recorded traffic", function()
    it("needs ../shared/recordings", function() pending "no recordings beside the checkout" end)
  end)
  return
end

-- The differences in the replies of a scenario, and those in its messages.
local function compare(name, r)
  local result = { replies = {}, messages = {} }
  local good, words = xpcall(function()
    for _, x in ipairs(r.lost) do table.insert(result.messages, x) end
    for _, entry in ipairs(r.replies) do compare_reply(r, entry, result.replies) end
    for _, conn in ipairs(r.s.opened) do compare_socket(name, conn, r, result.messages) end
  end, debug.traceback)
  if not good then table.insert(result.replies, words) end
  return result
end

-- What the sim does not do: these differences are known, and shown as such instead of held.
local not_simulated = {
}

-- How long some nodes took where it was recorded, in ms: replies tell jobs in the order of their durations.
local took = { jobs_api = { RecFail = 100 } }

local function run_one(x)
  local sim = assert(moonpool.sim { version = x.version, catalogue = x.text, previews = true, load_gb_s = 1e5, costs = took[x.name] })
  x.good, x.r = xpcall(replay, debug.traceback, x.name, x.s, sim)
  sim:close()
end

local function judge(x) return x.good and compare(x.name, x.r) or { replies = { x.r }, messages = { x.r } } end

-- All scenarios, AT_ONCE of them side by side, each with a sim of its own: version and name -> differences. Nothing that
-- takes long is done while some run, so that each request is sent at its place in the job. Longest ones first.
local results
local function run_all()
  local list, at, workers = {}, 0, {}
  for _, version in ipairs(versions) do
    local text = catalogue(version)
    for _, name in ipairs(scenarios) do
      if exists(version, name) then list[#list + 1] = { version = version, name = name, text = text, s = scenario(version, name) } end
    end
  end
  table.sort(list, function(a, b) return a.s.actions[#a.s.actions].t > b.s.actions[#b.s.actions].t end)
  for i = 1, AT_ONCE do
    workers[i] = moonpool.spawn(function()
      while at < #list do
        at = at + 1
        local x = list[at]
        run_one(x)
      end
    end)
  end
  for _, w in ipairs(workers) do w:wait() end
  results = {}
  for _, x in ipairs(list) do
    local result = judge(x)
    local held = { replies = not_simulated[x.name .. ": replies"], messages = not_simulated[x.name .. ": messages"] }
    for _ = 1, 4 do                                -- when the machine stands still an interrupt comes late: again, alone
      if (#result.replies == 0 or held.replies) and (#result.messages == 0 or held.messages) then break end
      x.s = scenario(x.version, x.name)
      moonpool.spawn(run_one, x):wait()
      result = judge(x)
    end
    results[x.version .. " " .. x.name] = result
  end
end

local function hold(key, list)
  if #list > 0 and not_simulated[key] then pending(not_simulated[key]) end
  report(list)
end

for _, version in ipairs(versions) do
  describe("sim beside the recordings of " .. version .. ":", function()
    setup(function() if not results then run_all() end end)
    for _, name in ipairs(scenarios) do
      if version == "0.18.1" or not only_new[name] then
        it(name .. ": replies", function() hold(name .. ": replies", results[version .. " " .. name].replies) end)
        it(name .. ": messages", function() hold(name .. ": messages", results[version .. " " .. name].messages) end)
      end
    end
  end)
end
