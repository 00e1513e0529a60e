"""What build systems need to find an embedded network: CMakeLists.txt and a pkg-config file."""

from __future__ import annotations

from string import Template

from cnncc.codegen.interface import ABI
from cnncc.embedding.description import Description

CMAKE = Template("""\
# The library $name, as a part of your project (add_subdirectory) or installed, for find_package($name):
#   cmake -B build . && cmake --install build --prefix /where/it/goes
# Either way: target_link_libraries(your_program PRIVATE $name::$name)
cmake_minimum_required(VERSION 3.15)
project($name VERSION $version LANGUAGES C)
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(${name}_network STATIC $name.o)
add_library($name::$name ALIAS ${name}_network)
set_source_files_properties($name.o PROPERTIES EXTERNAL_OBJECT TRUE)
set_target_properties(${name}_network PROPERTIES OUTPUT_NAME $name EXPORT_NAME $name LINKER_LANGUAGE C)
target_include_directories(${name}_network PUBLIC
  $$<BUILD_INTERFACE:$${CMAKE_CURRENT_SOURCE_DIR}> $$<INSTALL_INTERFACE:$${CMAKE_INSTALL_INCLUDEDIR}>)
$links
if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  add_executable(${name}_example example.c)
  target_link_libraries(${name}_example PRIVATE $name::$name)
endif()

set(package $${CMAKE_INSTALL_LIBDIR}/cmake/$name)
install(TARGETS ${name}_network EXPORT ${name}-targets ARCHIVE DESTINATION $${CMAKE_INSTALL_LIBDIR})
install(FILES $name.h DESTINATION $${CMAKE_INSTALL_INCLUDEDIR})
$data
install(EXPORT ${name}-targets NAMESPACE $name:: DESTINATION $${package})
file(WRITE $${CMAKE_CURRENT_BINARY_DIR}/${name}-config.cmake
  "${needs}include(\\$${CMAKE_CURRENT_LIST_DIR}/${name}-targets.cmake)\\n")
write_basic_package_version_file($${CMAKE_CURRENT_BINARY_DIR}/${name}-config-version.cmake
  COMPATIBILITY SameMajorVersion)
install(FILES $${CMAKE_CURRENT_BINARY_DIR}/${name}-config.cmake
  $${CMAKE_CURRENT_BINARY_DIR}/${name}-config-version.cmake DESTINATION $${package})
file(READ $name.pc pc)
string(REPLACE "libdir=\\$${pcfiledir}" "libdir=$${CMAKE_INSTALL_FULL_LIBDIR}" pc "$${pc}")
string(REPLACE "includedir=\\$${pcfiledir}" "includedir=$${CMAKE_INSTALL_FULL_INCLUDEDIR}" pc "$${pc}")
file(WRITE $${CMAKE_CURRENT_BINARY_DIR}/$name.pc "$${pc}")
install(FILES $${CMAKE_CURRENT_BINARY_DIR}/$name.pc DESTINATION $${CMAKE_INSTALL_LIBDIR}/pkgconfig)
""")

PC = Template("""\
libdir=$${pcfiledir}
includedir=$${pcfiledir}

Name: $name
Description: $name, a network compiled by cnncc
Version: $version
Libs: -L$${libdir} -l$name$libs
Cflags: -I$${includedir}
""")


def cmake(d: Description) -> str:
    """CMakeLists.txt: the library as a target, its installation, and the example."""
    threads = d.interface.threads == "pthread"
    return CMAKE.substitute(
        name=d.name, version=f"{ABI}.0",
        links="set(THREADS_PREFER_PTHREAD_FLAG ON)\nfind_package(Threads REQUIRED)\n"
              f"target_link_libraries({d.name}_network PUBLIC Threads::Threads)\n" if threads else "",
        data=f"install(FILES {d.name}.weights DESTINATION ${{CMAKE_INSTALL_DATADIR}}/{d.name})\n"
             if d.in_file else "",
        needs="include(CMakeFindDependencyMacro)\\nfind_dependency(Threads)\\n" if threads else "")


def pkg_config(d: Description) -> str:
    """The file for pkg-config, right where it lies beside the library."""
    return PC.substitute(name=d.name, version=f"{ABI}.0",
                         libs=" -pthread" if d.interface.threads == "pthread" else "")
