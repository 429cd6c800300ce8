-- moonpool/client.lua: what a script asks of one server, with that client's address, credentials and bounds.
local core = require "moonpool.core"
local http = require("moonpool.net").http
local known = require "moonpool.known"
local read_file = require("moonpool.file").read
local task = require "moonpool.task"

local fail = task.error

local Client = core.methods "moonpool.client"

-- Options of a request on this client's server: its address, credentials and bounds. large: it may take an hour, as long
-- as it moves.
local HOUR = 3600000
local function request_of(client, path, large)
  local o = client:_access()
  local headers = {}
  for _, line in ipairs(o.header_lines or {}) do
    local name, value = line:match "^([^:]+):%s*(.*)$"
    headers[name] = value
  end
  return {
    url = client.url .. path, headers = headers, userpwd = o.userpwd, ca_file = o.ca_file, insecure = o.insecure, connect_timeout_ms = o.connect_timeout_ms,
    timeout_ms = large and HOUR or o.request_timeout_ms, silence_ms = large and o.request_timeout_ms or nil,
  }
end

local function call(client, method, path, body, large)
  local request, name = request_of(client, path, large), client.name     -- it may be gone when the answer comes
  request.method, request.body = method, body
  for k, v in pairs(large or {}) do request[k] = v end
  local reply, err = http.request(request)
  if not reply then
    err.client = name
    return nil, err
  end
  return reply
end

local function ask(client, method, path, body)
  local name = client.name
  local reply, err = call(client, method, path, body)
  if not reply then return nil, err end
  if reply.status ~= 200 then
    return nil, fail("server", ("%s %s was answered with status %d"):format(method, path, reply.status), name)
  end
  if reply.body == "" then return true end
  local value, e = core.json.decode(reply.body)
  if value == nil and e then return nil, fail("server", path .. ": " .. e.message, name) end
  return value
end

-- Any request on this client's server, bounded by the pool's request_timeout_ms. Waits; returns the reply as
-- http.request does.
local function check_path(path, what)                      -- one without its slash could name another host
  if type(path) ~= "string" then error(what .. ": a path expected, got " .. type(path), 3) end
  if path:sub(1, 1) ~= "/" then error(what .. ": a path begins with a slash, got '" .. path .. "'", 3) end
end

function Client:get(path)
  check_path(path, "client:get")
  return call(self, "GET", path)
end
function Client:post(path, body)
  check_path(path, "client:post")
  return call(self, "POST", path, type(body) == "table" and core.json.encode(body) or body or "")
end
-- Each waits and returns the decoded JSON, or nil, err.
function Client:system_stats() return ask(self, "GET", "/system_stats") end
function Client:queue() return ask(self, "GET", "/queue") end
function Client:history(id) return ask(self, "GET", id and "/history/" .. core.url_encode(id) or "/history") end
function Client:object_info(class) return ask(self, "GET", class and "/object_info/" .. core.url_encode(class) or "/object_info") end
function Client:free(what)
  return ask(self, "POST", "/free", core.json.encode(what or { unload_models = true, free_memory = true }))
end
-- Stops the prompt if it runs there. Servers before 0.3.57 ignore the id and stop whatever runs, as all of them do without one: so
-- there must be one.
function Client:interrupt(prompt_id)
  if type(prompt_id) ~= "string" or prompt_id == "" then error("client:interrupt: the id of a prompt expected, got " .. (prompt_id == "" and "an empty string" or type(prompt_id)), 2) end
  return ask(self, "POST", "/interrupt", core.json.encode { prompt_id = prompt_id })
end
-- Puts a file into the server's input folder: {name=, data= or path=, subfolder=, type=, overwrite=}. Waits. Returns
-- the name to use in LoadImage (the server's choice), and its whole answer.
function Client:upload(o)
  known(o, { name = true, data = true, path = true, subfolder = true, type = true, overwrite = true }, "client:upload")
  if not o or not (o.data and o.name or o.path) then error("client:upload: option 'path', or 'name' and 'data', is missing", 2) end
  local data = o.data
  if not data then
    local words
    data, words = read_file(o.path)
    if not data then return nil, fail("io", words) end
  end
  local name = o.name or o.path:match "[^/\\]+$"
  local parts = { { name = "image", filename = name, data = data, type = "application/octet-stream" } }
  for _, k in ipairs { "subfolder", "type" } do
    if o[k] then parts[#parts + 1] = { name = k, data = o[k] } end
  end
  if o.overwrite then parts[#parts + 1] = { name = "overwrite", data = "true" } end
  local client = self.name
  local reply, err = call(self, "POST", "/upload/image", nil, { parts = parts })
  if not reply then return nil, err end
  if reply.status ~= 200 then return nil, fail("server", "the upload was answered with status " .. reply.status, client) end
  local answer = core.json.decode(reply.body)
  if type(answer) ~= "table" or not answer.name then return nil, fail("server", "the upload was answered with something else than a name", client) end
  local sub = answer.subfolder
  return (sub and sub ~= "") and sub .. "/" .. answer.name or answer.name, answer
end

-- Nothing new is sent there until resume; what is there goes on.
function Client:pause() self:_pause(true) return self end
function Client:resume() self:_pause(false) return self end

return { call = call, request_of = request_of }
