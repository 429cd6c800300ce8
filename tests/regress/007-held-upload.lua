-- tests/regress/007-held-upload.lua: a job that waited to replace a file another one still needed, and was canceled, kept
-- its client for ever.
local K = require "kit"

describe("a canceled job whose upload was held back", function()
  after_each(K.clean)

  it("lets its client go", function()
    local pool = K.pool_of { K.sim { step_ms = 10 } }
    local function with_file(bytes, steps, seed)
      return assert(K.picture(seed):input("3", "steps", steps):attach_folder_files("sub", { { name = "same.bin", data = bytes } }))
    end
    local a = pool:submit(with_file("AAAA", 40, 1))
    K.till("it runs", function() return a.status == "running" end)
    local b = pool:submit(with_file("BBBB", 1, 2))
    K.turns()
    assert.is_true(b:cancel())
    K.completed(a)
    K.completed(pool:submit(K.picture(5)))
  end)
end)
