-- moonpool/near.lua: the nearest of the valid names, for words about a wrong one.
local core = require "moonpool.core"

-- The name of the list that `wrong` was most likely meant to be, or nil: no more than half of it may differ. Upper and
-- lower case count as equal, and so does a name that begins with what was given. Behind it: the words for a message, or "".
return function(wrong, names)
  local best, found = math.min(4, (#wrong + 1) // 2 + (#wrong > 2 and 1 or 0)), nil
  local low = wrong:lower()
  for _, name in ipairs(names) do
    local other = name:lower()
    local d = other == low and 0 or core.distance(low, other)
    if d > 0 and #low >= 3 and other:sub(1, #low) == low then d = 1 end
    if d < best then best, found = d, name end
  end
  return found, found and (" (did you mean '%s'?)"):format(found) or ""
end
