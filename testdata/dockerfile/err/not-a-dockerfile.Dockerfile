<!DOCTYPE html>
<html>
<body "x='>
</html>
