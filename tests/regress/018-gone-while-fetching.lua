-- tests/regress/018-gone-while-fetching.lua: fetch and save raised when the client was removed or the pool closed while they waited,
-- even when all bytes had come.
local moonpool = require "moonpool"
local H = require "helper"
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("a result whose client or pool goes while it is fetched", function()
  after_each(K.clean)

  -- What fn gives in a task while `leave` happens as soon as the file is asked for.
  local function meanwhile(s, fn, leave)
    local got
    local t = moonpool.spawn(function() got = table.pack(pcall(fn)) end)
    K.till("the file is asked for", function() return #s:seen("GET", "/view") > 0 end)
    leave()
    t:wait()
    assert.is_true(got[1], tostring(got[2]))
    return got[2], got[3]
  end

  local function result(view)
    local s = K.server { outputs = { ["9"] = { images = moonpool.json.array { { filename = "a.png", subfolder = "", type = "output" } } } }, view = { ["a.png"] = view } }
    local pool, client = K.pool_of({ s }, { request_timeout_ms = 500 })
    return s, pool, client, K.completed(pool:submit(K.picture()))
  end

  for how, leave in K.sorted {
    ["the client is removed"] = function(_, client) client:remove() end,
    ["the pool is closed"] = function(pool) pool:shutdown { timeout_ms = 0 } end,
  } do
    for what, get in K.sorted {
      fetch = function(r) return r:fetch(r.files[1]) end,
      save = function(r) return r:save(H.folder "gone") end,
    } do
      scripted(("%s: result:%s says so as an error that is given, not raised"):format(how, what), function()
        local s, pool, client, r = result { data = "x", hang = 3 }
        local value, err = meanwhile(s, function() return get(r) end, function() leave(pool, client) end)
        assert.is_nil(value)
        assert.equal("gone", err.kind)
      end)
    end
  end

  scripted("gives the bytes that came all the same", function()
    local s = K.server { outputs = { ["9"] = { images = moonpool.json.array { { filename = "a.png", subfolder = "", type = "output" } } } }, view = { ["a.png"] = { size = 8 << 20 } } }
    local pool = K.pool_of { s }
    local r = K.completed(pool:submit(K.picture()))
    local bytes
    local t = moonpool.spawn(function() bytes = r:fetch(r.files[1]) end)
    moonpool.step(0)
    pool:shutdown { timeout_ms = 0 }
    t:wait()
    assert.equal(8 << 20, #bytes)
  end)
end)
