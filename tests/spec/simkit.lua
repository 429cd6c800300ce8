-- tests/spec/simkit.lua: what the specs of the simulated server speak with, and short workflows for it.
-- At speed 100 a cost of 1000 ms is one of 10 ms; nothing here depends on how long anything takes.
local H = require "helper"
local assert = require "luassert"                -- busted gives it to spec files only
local moonpool = require "moonpool"
local json = moonpool.json

local BOUND = 10000                              -- ms until a message that must come is given up

-- ---- what the specs speak with -------------------------------------------------------------------------------------

local function server(o)
  o = o or {}
  o.speed = o.speed or 100
  return assert(moonpool.sim(o))
end

local function request(sim, method, path, body, headers)
  if type(body) == "table" then body = json.encode(body) end
  return assert(moonpool.http.request { method = method, url = sim.url .. path, body = body, headers = headers })
end

local function get(sim, path, headers) return request(sim, "GET", path, nil, headers) end
local function fetch(sim, path)
  local reply = get(sim, path)
  assert.are.equal(200, reply.status, path)
  return assert(json.decode(reply.body))
end

local function upload(sim, parts, path)
  return assert(moonpool.http.request { method = "POST", url = sim.url .. (path or "/upload/image"), parts = parts })
end
local function picture(name, data) return { name = "image", filename = name, data = data, type = "image/png" } end

-- The next message: decoded, or {type = "binary", data =}.
local function next_message(ws)
  local data, binary = ws:receive(BOUND)
  assert.is_truthy(data, "a message that must come did not")
  if binary then return { type = "binary", data = data } end
  return assert(json.decode(data))
end

-- Reads until `stop` accepts a message; all of them, that one included.
local function read_until(ws, stop)
  local list = {}
  repeat list[#list + 1] = next_message(ws) until stop(list[#list])
  return list
end

-- A socket whose first message is returned behind it.
local function connect(sim, sid, path)
  local ws = assert(moonpool.ws.connect { url = sim.url:gsub("^http", "ws") .. (path or "/ws") .. (sid and "?clientId=" .. sid or "") })
  return ws, next_message(ws)
end

local function is_end(id)
  return function(m) return m.type == "executing" and m.data.node == json.null and m.data.prompt_id == id end
end
local function is_executing(node)
  return function(m) return m.type == "executing" and m.data.node == node end
end

-- Posts a prompt; options go into the body. Its id, and the reply decoded.
local function submit(sim, prompt, sid, options)
  local body = { prompt = prompt, client_id = sid }
  for k, v in pairs(options or {}) do body[k] = v end
  local reply = request(sim, "POST", "/prompt", body)
  assert.are.equal(200, reply.status, reply.body)
  local answer = assert(json.decode(reply.body))
  return answer.prompt_id, answer
end

-- Posts a prompt and reads to its end: the messages, and its id.
local function run(sim, ws, sid, prompt, options)
  local id = submit(sim, prompt, sid, options)
  return read_until(ws, is_end(id)), id
end

-- Messages in short: "status 1", "executing 3", "progress 2/4", "binary 1", "execution_cached 4,5".
local function short(m)
  local d = m.data
  if m.type == "binary" then return "binary " .. string.unpack(">I4", d) end
  if m.type == "status" then return "status " .. d.status.exec_info.queue_remaining end
  if m.type == "executing" then return "executing " .. (d.node == json.null and "null" or d.node) end
  if m.type == "executed" then return "executed " .. d.node end
  if m.type == "progress" then return ("progress %d/%d"):format(d.value, d.max) end
  if m.type == "execution_cached" then
    local nodes = { table.unpack(d.nodes) }
    table.sort(nodes)
    return "execution_cached" .. (#nodes > 0 and " " .. table.concat(nodes, ",") or "")
  end
  if m.type == "execution_error" or m.type == "execution_interrupted" then return m.type .. " " .. d.node_id end
  return m.type
end

local function shorts(list, without)
  local out = {}
  for _, m in ipairs(list) do
    if m.type ~= without then out[#out + 1] = short(m) end
  end
  return out
end

local function only(list, kind)
  local out = {}
  for _, m in ipairs(list) do
    if m.type == kind then out[#out + 1] = m end
  end
  return out
end

-- All that came until now: the answer to a first JSON message is sent behind it, also on a socket that is deaf. Once
-- for each socket, 0.18.1 only.
local function everything(ws)
  ws:send(json.encode { type = "feature_flags", data = {} })
  local list = read_until(ws, function(m) return m.type == "feature_flags" end)
  list[#list] = nil
  return list
end

-- ---- workflows --------------------------------------------------------------------------------------------------------

-- Source, filter, save: no progress.
local function small(color, prefix)
  return {
    ["1"] = { class_type = "EmptyImage", inputs = { width = 16, height = 16, batch_size = 1, color = color or 1 } },
    ["2"] = { class_type = "ImageInvert", inputs = { image = { "1", 0 } } },
    ["3"] = { class_type = "SaveImage", inputs = { images = { "2", 0 }, filename_prefix = prefix or "small" } },
  }
end

local function text_to_image(o)
  local w = json.decode(H.text_to_image)
  w["5"].inputs.width, w["5"].inputs.height = 64, 64
  w["3"].inputs.steps, w["3"].inputs.seed = o and o.steps or 4, o and o.seed or 1
  return w
end

-- 200 steps of 110 ms, each reported: runs until it is interrupted.
local endless_costs = { KSampler = { ms = 0, step_ms = 11000 }, CheckpointLoaderSimple = 1, CLIPTextEncode = 1, VAEDecode = 1, SaveImage = 1 }
local function endless(seed) return text_to_image { steps = 200, seed = seed or 99 } end

-- Starts it and reads until its sampler runs.
local function occupy(sim, ws, sid)
  local id = submit(sim, endless(), sid)
  read_until(ws, is_executing "3")
  return id
end

local function interrupt(sim, id) return request(sim, "POST", "/interrupt", id and { prompt_id = id } or nil) end

-- A socket called raw, read byte by byte in a process of its own (raw.py, with these steps behind the handshake): a
-- function that gives all it has said.
local raw_sockets = 0
local function raw_socket(sim, ...)
  raw_sockets = raw_sockets + 1
  local out = H.folder("raw_socket_" .. raw_sockets) .. "/out"
  H.write(out .. ".steps", table.concat({ "> GET /ws?clientId=raw HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Key: "
    .. "dGhlIHNhbXBsZSBub25jZQ==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n", "=", ... }, "\n"))
  H.write(out, "")
  os.execute(("python3 -u tests/spec/raw.py %d < %s.steps > %s 2>&1 &"):format(sim.port, out, out))
  return function() return H.read(out) end
end

local function history_of(sim, id) return fetch(sim, "/history/" .. id)[id] end

return {
  BOUND = BOUND, server = server, request = request, get = get, fetch = fetch, upload = upload, picture = picture,
  next_message = next_message, read_until = read_until, connect = connect, is_end = is_end,
  is_executing = is_executing, submit = submit, run = run, short = short, shorts = shorts, only = only,
  everything = everything, small = small, text_to_image = text_to_image, endless_costs = endless_costs,
  endless = endless, occupy = occupy, interrupt = interrupt, history_of = history_of, raw_socket = raw_socket,
}
