-- tests/regress/008-variant-seeds.lua: seeds that were drawn for one variant were looked up in another one.
local moonpool = require "moonpool"
local K, H = require "kit", require "helper"

describe("auto_seeds of a job whose first variant was refused", function()
  after_each(K.clean)

  it("names the nodes they were drawn for", function()
    local t = {}
    for i = 1, 40 do t[tostring(100 + i)] = { class_type = "EmptyLatentImage", inputs = { width = 64, height = 64, batch_size = 1 } } end
    for k, v in pairs(moonpool.json.decode(H.text_to_image)) do t[k] = v end
    t["200"] = { class_type = "NotThere", inputs = { seed = -1 } }
    t["201"] = { class_type = "SaveImage", inputs = { images = moonpool.json.array { "200", 0 }, filename_prefix = "x" } }
    local pool = K.pool_of { K.sim() }
    local r = K.completed(pool:submit_variants { assert(moonpool.workflow.from(t)), K.picture(7) })
    for _, s in ipairs(r.auto_seeds) do assert.equal("200", s.node) end
  end)
end)
