400
{"message":"invalid parameter `memory`: `much` is not a number"}
