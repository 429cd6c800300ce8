-- moonpool/result.lua: what a job gave: read when it is asked for, and its files fetched or saved.
local core = require "moonpool.core"
local known = require "moonpool.known"
local requests = require "moonpool.client"
local task = require "moonpool.task"

local call, fail, request_of = requests.call, task.error, requests.request_of

local Result = {}

local function view_path(file)
  return "/view?filename=" .. core.url_encode(file.filename) .. "&subfolder=" .. core.url_encode(file.subfolder or "") .. "&type=" .. core.url_encode(file.type or "output")
end

-- What the server announced by node id; only the nodes asked for (include_outputs), if any were.
local function outputs_of(job)
  local all, wanted = job.raw_outputs, job.include
  if not wanted then return all end
  local some = {}
  for _, node in ipairs(wanted) do some[job.aliases[node] or node] = all[job.aliases[node] or node] end
  return some
end

-- Every file among the outputs, in the order of node ids and positions.
local function files_of(job, only)
  local list, nodes = {}, {}
  local outputs, url, cached = outputs_of(job), job.client_url, job.cached_outputs
  for node in pairs(outputs) do nodes[#nodes + 1] = node end
  table.sort(nodes)
  for _, node in ipairs(nodes) do
    local kinds = {}
    if type(outputs[node]) == "table" then
      for kind in pairs(outputs[node]) do kinds[#kinds + 1] = kind end
    end
    table.sort(kinds)
    for _, kind in ipairs(kinds) do
      local items = outputs[node][kind]
      for _, item in ipairs(type(items) == "table" and (not only or kind == only) and items or {}) do
        local path = kind == "result" and type(item) == "string" and item:match "%.%w+$" and item   -- 3D: the model's file, then its camera
        if path then item = { filename = path:match "[^/\\]+$", subfolder = path:match "^(.*)[/\\]" } end
        if type(item) == "table" and type(item.filename) == "string" then
          local f = { filename = item.filename, node = node, kind = kind, cached = cached[node] }
          f.subfolder = type(item.subfolder) == "string" and item.subfolder or nil
          f.type = type(item.type) == "string" and item.type or nil
          f.url = url .. view_path(f)
          list[#list + 1] = f
        end
      end
    end
  end
  for i, p in ipairs(job.pictures) do                     -- of SaveImageWebsocket: here already, by no name of the server
    if not only or only == "images" then
      list[#list + 1] = { filename = ("%s_%05d.png"):format(p.node, i), node = p.node, kind = "images", type = "memory", data = p.data }
    end
  end
  return list
end

local lazy = {
  outputs = function(job)
    local outputs = outputs_of(job)
    for alias, node in pairs(job.aliases) do outputs[alias] = outputs[node] end
    return outputs
  end,
  files = function(job) return files_of(job) end,
  images = function(job) return files_of(job, "images") end,
  encrypted_images = function(job) return files_of(job, "encrypted_images") end,
  raw_outputs = function(job) return job.raw_outputs end,
  profile = function(job) return job.profile end,
  workflow = function(job) return job.sent end,
  auto_seeds = function(job) return job.auto_seeds end,
  metadata = function(job) return job.metadata end,
}

function Result:__index(k)
  local method = rawget(Result, k)
  if method ~= nil then return method end
  local make = lazy[k]
  if not make then return nil end
  local job = rawget(self, "job")
  local value = job and make(job)
  rawset(self, k, value)
  return value
end

local function result_of(job)
  local st = job.pool:_state()
  local r = setmetatable({
    status = job.status, job_id = job.id, prompt_id = job.prompt_id, client = job.client, error = job.error, attempts = job.attempts, job = job,
  }, Result)
  if r.status == "completed" then r.error = nil end
  st.live[r] = true
  return r
end

-- A file name without anything that could leave the folder or hide.
local function safe(name)
  name = name:gsub("[%c/\\:]", "_"):gsub("^%.+", "_")
  return name == "" and "_" or name
end

local TRIES = 3                        -- of one download; a file that is not there is not asked for again
local function retry(fn)
  local value, err
  for i = 1, TRIES do
    value, err = fn()
    if value or err.final or i == TRIES then break end
    task.sleep(250 * 4 ^ (i - 1))
  end
  if err then err.final = nil end
  return value, err
end

-- Asked before each try: a download waits, and meanwhile the client may be removed or the pool closed.
local function pool_of(result)
  local fine, pool = pcall(function() return result.job.pool end)
  return fine and not pool:_closed() and pool or nil
end

local function gone(result, words)
  local err = fail("gone", words, result.client)
  err.final = true
  return nil, err
end

-- The client that made a result; nil, err when it is no longer there.
local function maker(result)
  local pool = pool_of(result)
  if not pool then return gone(result, "the pool was closed") end
  local client = pool:client(result.job.client_url)
  if not client then return gone(result, "the client that made it is no longer in the pool") end
  return client
end

-- What fetching took belongs to the profile.
local function transferred(result, began)
  local pool = pool_of(result)
  if pool then pool:_transfer(result.job:_key(), core.now() - began) end
end

local function refused(result, file, status)
  local err = fail("server", ("%s: status %d"):format(file.filename, status), result.client)
  err.final = status < 500
  return nil, err
end

local MOST_BYTES = 4000000000          -- of one reply in memory, as http.request has it

-- Bytes of one output file ({filename, subfolder, type} or an entry of result.files). Waits. options.max_bytes: a longer
-- file is nil, err (kind "limit"); default 256 MiB. A download that breaks, or gives no byte for request_timeout_ms, is
-- tried three times.
function Result:fetch(file, options)
  known(options, { max_bytes = true }, "result:fetch")
  local bound = options and options.max_bytes or 256 * 1024 * 1024
  if type(file) ~= "table" or not (file.data or type(file.filename) == "string") then error("result:fetch: a file of result.files expected", 2) end
  if type(bound) ~= "number" or not (bound >= 1 and bound <= MOST_BYTES) then
    error(("result:fetch: option 'max_bytes': a number from 1 to %d expected, got %s"):format(MOST_BYTES, tostring(bound)), 2)
  end
  if file.data then
    if #file.data > bound then return nil, fail("limit", "the picture is larger than max_bytes") end
    return file.data
  end
  local began = core.now()
  local bytes, err = retry(function()
    local client, problem = maker(self)
    if not client then return nil, problem end
    local reply, e = call(client, "GET", view_path(file), nil, { max_body = bound })
    if not reply then
      e.final = e.kind == "limit"
      return nil, e
    end
    if reply.status ~= 200 then return refused(self, file, reply.status) end
    return reply.body
  end)
  transferred(self, began)
  return bytes, err
end

local function write(path, bytes)
  local beside = core.beside(path)
  local f, words = io.open(beside, "wb")
  if not f then return nil, fail("io", words) end
  local ok, trouble = f:write(bytes)
  local closed = f:close()
  if ok and closed then ok, trouble = os.rename(beside, path) end
  if ok then return true end
  os.remove(beside)
  return nil, fail("io", path .. ": " .. tostring(trouble))
end

-- One output file, streamed into `path`. Waits.
local function download(result, file, path)
  if file.data then return write(path, file.data) end
  return retry(function()
    local client, err = maker(result)
    if not client then return nil, err end
    local reply = task.await(function(done)
      local ok, e = core.download(request_of(client, view_path(file), true), path, done)
      if not ok then err = e; done() end
    end)
    if err then return nil, err end
    if reply.kind then
      local e = fail(reply.kind, (reply.kind == "io" and path .. ": " or file.filename .. ": ") .. reply.message, result.client)
      e.final = reply.kind == "io"
      return nil, e
    end
    if reply.status ~= 200 then return refused(result, file, reply.status) end
    return true
  end)
end

local name_fields = { job = true, node = true, client = true, filename = true, name = true, ext = true, index = true }

-- Fetches every output file into `dir` (made when it is not there), each streamed beside its place and renamed when it
-- is whole. options.pattern: the name, from {job}, {node}, {client}, {filename}, {name}, {ext}, {index}; default
-- "{job}_{filename}", because servers number their files each for itself. Whatever names a server sends, nothing is
-- written outside of `dir`. Waits. Returns the paths, or nil, err (then what was saved before stays).
function Result:save(dir, options)
  if type(dir) ~= "string" then error("result:save: a folder expected, got " .. type(dir), 2) end
  known(options, { pattern = true }, "result:save")
  local pattern = options and options.pattern or "{job}_{filename}"
  if type(pattern) ~= "string" then error("result:save: option 'pattern': a string expected, got " .. type(pattern), 2) end
  local paths, taken = {}, {}
  for field in pattern:gmatch "{(%w+)}" do
    if not name_fields[field] then error(("result:save: option 'pattern': there is no {%s}; {job} {node} {client} {filename} {name} {ext} {index} are"):format(field), 2) end
  end
  if dir == "" then dir = "." end
  local began = core.now()
  for i, file in ipairs(self.files) do
    local base = safe(file.filename)
    local fields = {
      job = safe(self.job_id), node = safe(file.node), client = safe(self.client or ""), filename = base, name = base:match "^(.*)%.[^.]*$" or base,
      ext = base:match "%.([^.]*)$" or "", index = tostring(i),
    }
    local name = safe((pattern:gsub("{(%w+)}", fields)))
    local stem, ext, more = name:match "^(.*)(%.[^.]*)$", name:match "%.[^.]*$", i
    while taken[name] do                                   -- same name in another folder of the server
      name, more = (stem or name) .. "_" .. more .. (ext or ""), more + 1
    end
    taken[name] = true
    local path = (dir == "/" and "" or dir:gsub("/*$", "")) .. "/" .. name
    local ok, err = download(self, file, path)
    if not ok then return nil, err end
    paths[#paths + 1] = path
  end
  transferred(self, began)
  return paths
end

-- Reads all that is read when it is asked for: results outlive their pool.
local function settle(result)
  if not rawget(result, "job") then return end
  for k in pairs(lazy) do local _ = result[k] end
end

return { of = result_of, settle = settle }
