400
{"message":"Dockerfile:1:1: there is no stage `none` to build"}
