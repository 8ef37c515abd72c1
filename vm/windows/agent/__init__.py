"""The client of ntguest.exe: the program in a guest that makes processes, opens devices and runs services."""
