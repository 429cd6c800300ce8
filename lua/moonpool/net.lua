-- moonpool/net.lua: HTTP and WebSocket for scripts, on the same loop as everything else; what waits, waits as a task does.
local core = require "moonpool.core"
local task = require "moonpool.task"

local fail = task.error

local M = { http = {}, ws = {} }

-- One request: {method=, url=, body=, headers={Name=value}, timeout_ms=, parts={...}, insecure=}. Waits. Returns
-- {status, body, content_type, headers} for any status, or nil, err (kind connection, timeout, tls, limit).
-- silence_ms: no byte in either direction for once to twice as long is a timeout; without it only timeout_ms counts.
function M.http.request(options)
  local reply, err
  reply = task.await(function(done)
    local ok, e = core.http(options, done)
    if not ok then err = e; done() end
  end)
  if err then return nil, err end
  if reply.kind then return nil, fail(reply.kind, reply.message) end
  reply.headers = {}
  for name, value in reply.raw_headers:gmatch "([^\r\n:]+):%s*([^\r\n]*)" do reply.headers[name:lower()] = value end
  reply.raw_headers = nil
  return reply
end

local Socket = {}
Socket.__index = Socket

-- Opens a WebSocket: {url=, headers=, timeout_ms=, max_message=}. Waits for the handshake. Returns a socket with
-- receive(timeout_ms) -> data, is_binary; send(data, binary); close(code, reason). nil, err when it is refused.
function M.ws.connect(options)
  local s = setmetatable({ inbox = {}, head = 1, last = 0, waiting = nil }, Socket)
  local err
  local ok = task.await(function(done)
    local opened = false
    local object, e = core.ws(options, function(what, data, number)
      if what == "open" then
        opened = true
        done(true)
      elseif what == "close" then
        s.closed = { code = number, reason = data }
        if not opened then err = fail("connection", data); done(false) end
      else
        s.last = s.last + 1                      -- # would not do: what was read is nil at the front
        s.inbox[s.last] = { data, what == "binary" }
      end
      if s.waiting then s.waiting() end
    end)
    if not object then err = e; done(false) end
    s.object = object
  end)
  if not ok then return nil, err end
  return s
end

-- The next message; nil, err when the socket was closed (kind "closed", code) or nothing came in time.
function Socket:receive(timeout_ms)
  while self.head > self.last do
    if self.closed then
      local err = fail("closed", self.closed.reason)
      err.code = self.closed.code
      return nil, err
    end
    local _, why = task.await(function(done) self.waiting = done end, timeout_ms)
    self.waiting = nil
    if why == task.TIMEOUT then return nil, fail("timeout", "no message came in time") end
  end
  local m = self.inbox[self.head]
  self.inbox[self.head] = nil
  self.head = self.head + 1
  if self.head > self.last then self.inbox, self.head, self.last = {}, 1, 0 end
  return m[1], m[2]
end

function Socket:send(data, binary) return self.object:send(data, binary) end
function Socket:close(code, reason) self.object:close(code, reason) end
Socket.__close = function(s) s.object:close() end

return M
