-- tests/regress/009-two-of-a-name.lua: two attachments of one workflow that replace each other on the server were sent for
-- ever, one after the other.
local moonpool = require "moonpool"

describe("two different files under one name with override", function()
  it("are refused when they are attached", function()
    local wf = assert(moonpool.workflow.from [[{"1":{"class_type":"LoadImage","inputs":{"image":"x"}},"2":{"class_type":"LoadImage","inputs":{"image":"y"}}}]])
    wf:attach_image("1", "image", "AAAA", "in.png", { override = true })
    assert.error_matches(function() wf:attach_image("2", "image", "BBBB", "in.png", { override = true }) end, 'two different files called "in.png"')
    wf:attach_image("2", "image", "AAAA", "in.png", { override = true })
    wf:attach_image("2", "image", "BBBB", "other.png", { override = true })
  end)
end)
