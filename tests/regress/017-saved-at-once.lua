-- tests/regress/017-saved-at-once.lua: two downloads to one place wrote into one file beside it, and what was renamed was a mixture
-- of both; outputs called like that file, or like a name made for a third one, replaced each other.
local moonpool = require "moonpool"
local H = require "helper"
local K = require "kit"
local scripted = K.scripted(it, pending)

local function file(name, subfolder) return { filename = name, subfolder = subfolder or "", type = "output" } end
local function images(...) return { ["9"] = { images = moonpool.json.array { ... } } } end

local function read(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read "a"
end

-- The files in a folder, sorted.
local function listed(folder)
  local names = {}
  for name in io.popen("ls -A " .. folder):lines() do names[#names + 1] = name end
  return names
end

describe("results that are saved at the same time to the same place", function()
  after_each(K.clean)

  scripted("leave one of the files whole, and nothing beside it", function()
    local folder, results = H.folder "at-once", {}
    for i, letter in ipairs { "a", "b" } do
      local s = K.server { outputs = images(file "C_1_.png"), view = { ["C_1_.png"] = { data = letter:rep(4 << 20) } } }
      results[i] = K.completed(K.pool_of { s }:submit(K.picture()))
    end
    for _ = 1, 3 do
      local tasks = {}
      for i, r in ipairs { results[1], results[2], results[1] } do tasks[i] = moonpool.spawn(function() return assert(r:save(folder, { pattern = "{filename}" })) end) end
      moonpool.task.all(tasks)
      local bytes = read(folder .. "/C_1_.png")
      assert.equal(4 << 20, #bytes)
      assert.is_true(bytes == ("a"):rep(4 << 20) or bytes == ("b"):rep(4 << 20), "the file is a mixture")
      assert.same({ "C_1_.png" }, listed(folder))
    end
  end)

  scripted("keep every output, whatever it is called", function()
    local folder = H.folder "names"
    local s = K.server { outputs = images(file "a.png.part", file "a.png", file "a_3.png", file("a.png", "x"), file("a.png", "y"), file "a_5.png") }
    local paths = assert(K.completed(K.pool_of { s }:submit(K.picture())):save(folder, { pattern = "{filename}" }))
    local seen = {}
    for _, path in ipairs(paths) do
      assert.is_nil(seen[path], path)
      seen[path] = true
      assert.matches("^bytes of a", read(path))
    end
    assert.equal(6, #listed(folder))
    assert.equal("bytes of a.png.part", read(folder .. "/a.png.part"))
    assert.equal("bytes of a_3.png", read(folder .. "/a_3.png"))
  end)

  scripted("may have names as long as the disk takes", function()
    local folder, name = H.folder "long", ("n"):rep(251) .. ".png"
    local s = K.server { outputs = images(file(name)) }
    local paths = assert(K.completed(K.pool_of { s }:submit(K.picture())):save(folder, { pattern = "{filename}" }))
    assert.equal("bytes of " .. name, read(paths[1]))
  end)
end)
