-- tests/regress/029-one-pool-after-the-other.lua: told to stop, a script closed its pools one after the other; while one was waited for
-- the next went on sending.
local H = require "helper"
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("a script with two pools that is told to stop", function()
  after_each(K.clean)

  local function exists(path)
    local f = io.open(path)
    return f and f:close()
  end

  -- Both servers obey no interrupt, so that each pool is waited for to the end of its time.
  scripted("stops both before it waits for one", function()
    local servers, folder = {}, H.folder "two-pools"
    for i = 1, 2 do servers[i] = K.server { hold = "running", raw = { ["POST /interrupt"] = "{}" } } end
    H.write(folder .. "/script.lua", ([[
      local moonpool = require "moonpool"
      local pools = {}
      for i, url in ipairs { "%s", "%s" } do
        pools[i] = moonpool.pool {}
        pools[i]:add_client(url)
        assert(pools[i]:init())
        local wf = moonpool.workflow.from %q
        for k = 1, 3 do pools[i]:submit(wf:clone():input("3", "seed", k)) end
        moonpool.spawn(function() for _ in pools[i]:results() do end end)
      end
    ]]):format(servers[1].url, servers[2].url, H.text_to_image))
    os.execute(("( sh -c 'echo $$ >%s/pid; exec %s %s/script.lua' >%s/out 2>&1; echo $? >%s/tmp; mv %s/tmp %s/code ) &"):format(folder, H.moonpool, folder, folder, folder, folder, folder))
    K.till("both work", function() return #servers[1]:prompts() == 2 and #servers[2]:prompts() == 2 end)
    K.keep(folder, function() os.execute(("[ -e %s/code ] || kill -KILL $(cat %s/pid)"):format(folder, folder)) end)
    os.execute(("kill -INT $(cat %s/pid)"):format(folder))
    K.till("both are told to stop", function() return #servers[1]:seen("POST", "/interrupt") > 0 and #servers[2]:seen("POST", "/interrupt") > 0 end)
    assert.equal("", H.read(folder .. "/out"))                     -- nor has it done with one of them
    K.till("it has ended", function() return exists(folder .. "/code") end)
    assert.equal("130\n", H.read(folder .. "/code"))
    local _, summaries = H.read(folder .. "/out"):gsub("interrupted: 0 completed, 0 failed, 3 canceled", "")
    assert.equal(2, summaries)
    for _, s in ipairs(servers) do assert.equal(2, #s:prompts()) end
  end)
end)
