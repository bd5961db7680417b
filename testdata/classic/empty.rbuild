400
{"message":"Dockerfile:1:1: the file has no instructions (it begins with `FROM IMAGE`)"}
