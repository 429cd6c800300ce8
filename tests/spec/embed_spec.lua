-- tests/spec/embed_spec.lua: Moonpool inside C programs, and the shape of what is built.
local moonpool = require "moonpool"
local H = require "helper"

-- A server in a process of its own; returns its address and a function that stops it.
local function server()
  local out = H.build .. "/tmp/embed-sim.txt"
  os.remove(out)
  os.execute(("%s sim --port 0 --speed 50 > %s 2>&1 & echo $! > %s.pid"):format(H.moonpool, out, out))
  local url
  for _ = 1, 500 do                                    -- until its line is there
    local f = io.open(out)
    url = f and f:read "a":match "http://[%d.:]+"
    if f then f:close() end
    if url then break end
    moonpool.sleep(10)
  end
  return url, function() os.execute(("kill $(cat %s.pid)"):format(out)) end
end

describe("embedding", function()
  it("a C host finishes a batch with one step per frame", function()
    local url, stop = server()
    local out, code = H.run(("%s/host %s 6"):format(H.build, url))
    stop()
    assert.equal(0, code, out)
    assert.matches("6 of 6 jobs finished", out)
  end)

  it("two states in one process, opened and closed 100 times; the host's SIGPIPE handler stays", function()
    local out, code = H.run(H.build .. "/states")
    assert.equal(0, code, out)
    assert.matches("100 rounds, SIGPIPE handler intact", out)
  end)

  it("the module does not carry Lua and shows luaopen_moonpool and moonpool_* only", function()
    if H.build ~= "build" then return end              -- sanitizer builds add symbols of their own
    local needed = H.run("readelf -d build/moonpool.so")
    assert.is_nil(needed:find "liblua")
    local symbols = H.run("nm -D --defined-only build/moonpool.so")
    for name in symbols:gmatch "[TDB] (%S+)" do assert.matches("^l?u?a?o?p?e?n?_?moonpool", name) end
  end)
end)
