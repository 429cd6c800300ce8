-- tests/regress/010-file-gone.lua: an attached file that was gone when it was to be sent counted as a lost connection, and
-- its client was disconnected eleven times.
local K = require "kit"

describe("an attached file that is gone or has changed", function()
  after_each(K.clean)

  local function job_with(spoil)
    local pool = K.pool_of { K.sim() }
    local path = os.tmpname()
    local f = assert(io.open(path, "wb"))
    f:write "AAAA"
    f:close()
    local wf = assert(K.from_image():attach_image("1", "image", { path = path }, "in.png"))
    spoil(path)
    local lost = 0
    pool:on("client:state", function(e) lost = lost + (e.state == "offline" and 1 or 0) end)
    local r = K.ended(pool:submit(wf))
    os.remove(path)
    assert.same({ "failed", "workflow_invalid", 0 }, { r.status, r.error.kind, lost })
    return r.error.message
  end

  it("fails its job alone", function()
    assert.matches("cannot be read", job_with(os.remove))
    assert.matches("has changed", job_with(function(path)
      local f = assert(io.open(path, "wb"))
      f:write "BBBBBB"
      f:close()
    end))
  end)
end)
