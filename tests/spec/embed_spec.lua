-- tests/spec/embed_spec.lua: Moonpool inside C programs, and the shape of what is built.
local H = require "helper"

local function server(more)
  local urls, stop = H.servers(1, more)
  return urls[1], stop
end

describe("embedding", function()
  it("a program with a poll loop of its own steps only when there is something", function()
    local url, stop = server()
    local out, code = H.run(("%s/poll %s 6"):format(H.build, url))
    stop()
    assert.equal(0, code, out)
    assert.is_true(tonumber(out:match "6 of 6 jobs finished in (%d+) steps") < 2000, out)
  end)

  it("a game with Lua of its own gets previews as bytes, with width and height", function()
    local url, stop = server "--previews"
    local out, code = H.run(("%s/game --frames 300 --frame-us 1000 %s"):format(H.build, url))
    stop()
    assert.equal(0, code, out)
    local jobs, previews = out:match "300 frames, (%d+) jobs done, 0 failed, (%d+) previews of 64x64"
    assert.is_true(tonumber(jobs) > 0 and tonumber(previews) > 0, out)
  end)

  it("states in threads of their own share nothing", function()
    local out, code = H.run(H.build .. "/threads")
    assert.equal(0, code, out)
    assert.matches("all done", out)
  end)

  it("installs: a C program outside of the tree, and stock Lua", function()
    if H.build ~= "build" then return end
    local dir = H.folder "install"
    local here = io.popen("pwd"):read "l"
    local prefix = here .. "/" .. dir .. "/usr"
    assert.equal(0, (select(2, H.run("MAKEFLAGS= make -s install PREFIX=" .. prefix))))
    H.write(dir .. "/c.c", [[
      #include <moonpool.h>
      #include <stdio.h>
      int main(void) {
          moonpool *m = moonpool_open(NULL, NULL);
          if (!m || moonpool_run(m, "local s <close> = require('moonpool').sim {}", "=c")) return 1;
          moonpool_close(m);
          puts("it links and runs");
          return 0;
      }]])
    local flags = ("PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config"):format(prefix)
    local out, code = H.run(("cc -o %s/shared %s/c.c $(%s --cflags --libs moonpool) -Wl,-rpath,%s/lib && %s/shared"):format(dir, dir, flags, prefix, dir))
    assert.same({ "it links and runs\n", 0 }, { out, code })
    out, code = H.run(("cc -o %s/static %s/c.c $(%s --static --cflags --libs moonpool | sed s/-lmoonpool/-l:libmoonpool.a/) && %s/static"):format(dir, dir, flags, dir))
    assert.same({ "it links and runs\n", 0 }, { out, code })
    out, code = H.run(("cd / && LUA_CPATH='%s/lib/lua/5.4/?.so;;' lua5.4 -e 'print(require \"moonpool\"._VERSION)'"):format(prefix))
    assert.same({ "moonpool 0.1\n", 0 }, { out, code })
    out = H.run(("cd / && %s/bin/moonpool -v"):format(prefix))
    assert.matches("moonpool 0.1", out)
  end)

  it("a C program without Lua finishes a batch", function()
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

  it("keeps to what a host's Lua may rely on: its allocator, its panic and warning functions; memory that runs out", function()
    local every = H.build == "build" and 7 or 61         -- all 6,600 places: build/contract 1
    local out, code = H.run(("%s/contract %d"):format(H.build, every))
    assert.equal(0, code, out)
    local tried = tonumber(out:match "^(%d+) of %d+ places failed one at a time: no panic, nothing stuck, all given back")
    assert.is_true(tried and tried > 50, out)
  end)

  it("tells a Lua of another version so", function()
    if H.build ~= "build" then return end
    local others = 0
    for _, lua in ipairs { "lua5.1", "lua5.2", "lua5.3", "luajit" } do
      if os.execute(("command -v %s >/dev/null"):format(lua)) then
        others = others + 1
        local out, code = H.run(("env -u LUA_CPATH_5_2 -u LUA_CPATH_5_3 LUA_CPATH='build/?.so' %s -e 'require \"moonpool\"'"):format(lua))
        assert.equal(1, code)
        assert.matches("moonpool needs Lua 5.4, and this is an older one: run it with lua5.4, or with the moonpool program", out, 1, true)
      end
    end
    if others == 0 then pending "no other Lua is installed" end
  end)

  it("says which version it is in the same way everywhere", function()
    local version = H.read "src/moonpool.h":match '#define MOONPOOL_VERSION "([%d.]+)"'
    assert.equal("moonpool " .. version, require "moonpool"._VERSION)
    assert.matches("^version = \"" .. version .. "%-1\"", H.read("scripts/moonpool-" .. version .. "-1.rockspec"):match "\n(version[^\n]*)")
    assert.matches("Version: " .. version .. "\\n", H.read "Makefile", 1, true)
  end)

  it("is built and installed by luarocks", function()
    if H.build ~= "build" then return end
    if not os.execute "command -v luarocks >/dev/null" then pending "luarocks is not installed" end
    local tree = io.popen("pwd"):read "l" .. "/" .. H.folder "rocks"
    local out, code = H.run(("MAKEFLAGS= luarocks --lua-version 5.4 --tree %s make --deps-mode none scripts/moonpool-0.1-1.rockspec"):format(tree))
    assert.equal(0, code, out)
    out, code = H.run(("cd / && LUA_PATH= LUA_CPATH='%s/lib/lua/5.4/?.so' lua5.4 -e 'print(require \"moonpool\"._VERSION)' && %s/bin/moonpool -v"):format(tree, tree))
    assert.equal(0, code, out)
    assert.matches("^moonpool 0.1\n", out)
  end)

  it("the module does not carry Lua and shows luaopen_moonpool and moonpool_* only", function()
    if H.build ~= "build" then return end              -- sanitizer builds add symbols of their own
    local needed = H.run("readelf -d build/moonpool.so")
    assert.is_nil(needed:find "liblua")
    local symbols = H.run("nm -D --defined-only build/moonpool.so")
    for name in symbols:gmatch "[TDB] (%S+)" do assert.matches("^l?u?a?o?p?e?n?_?moonpool", name) end
  end)
end)
