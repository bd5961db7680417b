400
{"message":"Dockerfile:2:1: unknown instruction `RUM` (did you mean `RUN`?)"}
