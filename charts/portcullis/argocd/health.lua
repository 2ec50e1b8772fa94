-- Health of McpServer, McpPolicy, McpAuthorizationServer and McpClient for Argo CD, by their conditions.
local health = { status = "Progressing", message = "The controller has not looked at it yet." }
if obj.status == nil or obj.status.conditions == nil then
  return health
end
local is = {}
for _, condition in ipairs(obj.status.conditions) do
  is[condition.type] = condition
end
local ready = is["Ready"]
-- What is said about an earlier version says nothing about this one.
if ready == nil or (ready.observedGeneration or obj.status.observedGeneration) ~= obj.metadata.generation then
  return health
end
local function say(status, condition)
  return { status = status, message = (condition.reason or "") .. ": " .. (condition.message or "") }
end
if ready.status == "True" then
  return say("Healthy", ready)
end
-- Wrong in itself, or something is missing that somebody has to bring.
for _, name in ipairs({ "Accepted", "ResolvedRefs" }) do
  if is[name] ~= nil and is[name].status == "False" then
    return say("Degraded", is[name])
  end
end
if is["Stalled"] ~= nil and is["Stalled"].status == "True" then
  return say("Degraded", is["Stalled"])
end
return say("Progressing", ready)
