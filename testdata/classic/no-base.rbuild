400
{"message":"Dockerfile:1:6: `REG/none:1` is neither in the store nor to be had from its registry"}
