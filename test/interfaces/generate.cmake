# Generate the messages of the folder msg: generate_messages(PACKAGE_THAT_THEY_USE...), after project().
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(Python3 REQUIRED COMPONENTS Interpreter Development NumPy)

macro(generate_messages)
  foreach(package ${ARGN})
    find_package(${package} REQUIRED)
  endforeach()
  # The wheels name the headers of Python and numpy where they lay on the machine that built the wheels.
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  list(FILTER targets INCLUDE REGEX "__rosidl_generator_py$")
  if(targets)
    set_target_properties(${targets} PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${Python3_INCLUDE_DIRS};${Python3_NumPy_INCLUDE_DIRS}")
  endif()
  # Nodes in Python use the C libraries; those of C++ take most of the time.
  list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "_cpp:")
  file(GLOB messages RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} msg/*.msg)
  rosidl_generate_interfaces(${PROJECT_NAME} ${messages} DEPENDENCIES ${ARGN})
  ament_package()
endmacro()
